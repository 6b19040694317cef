"""Imported teachers: known by what the cache holds of them, since there is no network to look at."""

import json

from kd_ray.cache.catalog import read_catalog
from kd_ray.config.models import ImportedModel
from kd_ray.config.teacher import Teacher
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheIncomplete, RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import redacted
from kd_ray.storage.base import canonical_json
from kd_ray.teachers.identity import teacher_identity


def imported_teacher(cache_uri: str, corpus: PackedCorpus, name: str, config: Teacher) -> KnownTeacher:
    """The teacher whose features were imported into the cache as the recipe says.

    Raises:
        RecipeError: there is none, or several.
    """
    found = find_imported(cache_uri, corpus, name, config)
    if found is None:
        raise RecipeError(
            f"teacher {name}: {redacted(cache_uri)} holds no features that were imported as {config.model.title} with "
            "this note, input, precision and output for this corpus. Import them (kd-ray cache import), or correct the "
            "section."
        )
    return found


def find_imported(cache_uri: str, corpus: PackedCorpus, name: str, config: Teacher) -> KnownTeacher | None:
    """As `imported_teacher`; None where there is none.

    Raises:
        RecipeError: there are several.
    """
    assert isinstance(config.model, ImportedModel)
    (output,) = config.outputs.names()
    digests: dict[str, tuple[int, ...]] = {}
    try:
        outputs = read_catalog(cache_uri).outputs
    except CacheIncomplete:
        return None
    for each in outputs.values():
        identity = each.target_set.identity
        digest = str(identity["teacher"].get("weights"))
        wanted = teacher_identity(config, weights_fingerprint=digest, num_classes=config.num_classes)
        is_it = identity["corpus_id"] == corpus.corpus_id and identity["teacher"] == json.loads(canonical_json(wanted))
        if is_it and each.spec.identity["output"] == output and digest.startswith(config.model.digest or ""):
            digests[digest] = each.shape
    if not digests:
        return None
    if len(digests) > 1:
        told = ", ".join(digest[:12] for digest in sorted(digests))
        raise RecipeError(
            f"teacher {name}: {redacted(cache_uri)} holds {len(digests)} imports of {config.model.title}, with the "
            f"digests {told}. Name one: model.digest."
        )
    ((digest, shape),) = digests.items()
    return known_import(name, config, digest=digest, shape=shape)


def known_import(name: str, config: Teacher, *, digest: str, shape: tuple[int, ...]) -> KnownTeacher:
    """An imported teacher whose features have this digest and, for one view, this shape."""
    (output,) = config.outputs.names()
    return KnownTeacher(
        name=name,
        config=config,
        num_classes=config.num_classes,
        weights_uri=None,
        weights_fingerprint=digest,
        shapes={output: shape},
        num_parameters=0,
    )

"""Transforms of targets that students have been trained on: each is made once, and never again.

`<output>/transforms/phi_s-<version>` is created conditionally from the second moments of what is committed then. A
cache that has grown keeps it, as a student that followed a rotation can follow no other; another one is another
version.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kd_ray.cache.commits import Commit
from kd_ray.cache.framed import read_record
from kd_ray.cache.moments import moments_of
from kd_ray.cache.phi_s import ADVICE, KIND, PhiS
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import Output, open_output
from kd_ray.errors import CacheCorrupt, RecipeError

FOLDER = "transforms"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenTransform:
    """Where a transform lies, and BLAKE2b-128 (hex) of its bytes; small enough to travel."""

    cache_uri: str
    target_set: Spec
    output: Spec
    version: int
    digest: str

    def open(self) -> PhiS:
        """The transform.

        Raises:
            CacheCorrupt: it is missing, has changed since, or is another one than that of the digest.
        """
        output = open_output(self.cache_uri, self.target_set, self.output, create=False)
        name = transform_name(output, self.version)
        location = output.collection.location(name)
        try:
            data = output.collection.storage.read(name)
        except FileNotFoundError:
            raise CacheCorrupt(f"{location}: is missing. {ADVICE}") from None
        if _digest(data) != self.digest:
            raise CacheCorrupt(f"{location}: has the digest {_digest(data)}, expected {self.digest}. {ADVICE}")
        return PhiS.from_bytes(data, location=location)


def freeze_phi_s(
    output: Output, commits: Callable[[], Iterable[Commit]], *, cache_uri: str, version: int
) -> FrozenTransform:
    """PHI-S of that version: the one that is there, else a new one from the units of `commits`.

    Raises:
        RecipeError: a version is left out.
        CacheIncomplete: it is to be made, and there are no units.
        CacheCorrupt: it has changed since, or a unit has.
        ExtractionError: it is to be made, and no channel varies.
    """
    storage, name = output.collection.storage, transform_name(output, version)
    location = output.collection.location(name)
    if not storage.exists(name):
        if version > 1 and not storage.exists(transform_name(output, version - 1)):
            raise RecipeError(
                f"{location}: standardize_version is {version}, but there is no version {version - 1} yet. Versions "
                "are made one after the other: give 1, or the one after the newest that is there."
            )
        made = PhiS.of(moments_of(output, commits()), what=f"{output.target_set.name} {output.spec.name}")
        storage.create(name, made.to_bytes())
    data = storage.read(name)  # of racing processes the first one's
    PhiS.from_bytes(data, location=location)
    return FrozenTransform(
        cache_uri=cache_uri, target_set=output.target_set, output=output.spec, version=version, digest=_digest(data)
    )


def transforms_of(output: Output) -> dict[str, dict[str, int]]:
    """By name, of how many tokens each was made, and in how many directions those varied; raises as `freeze_phi_s`."""
    storage = output.collection.storage
    names = storage.list(f"{output.collection.folder}/{FOLDER}")
    records = {name.rsplit("/", 1)[-1]: read_record(storage, name, advice=ADVICE) for name in names}
    return {name: {"tokens": record["count"], "rank": record["rank"]} for name, record in records.items()}


def transform_name(output: Output, version: int) -> str:
    """Below the storage of the output's collection."""
    return f"{output.collection.folder}/{FOLDER}/{KIND}-{version}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

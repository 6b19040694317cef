"""What lies in a cache, read from its identity files; what is damaged or foreign is a finding and hides no other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.cache.commits import Collection
from kd_ray.cache.findings import Finding
from kd_ray.cache.spec import FINGERPRINT_DIGITS, FORMAT_VERSION, Spec, read_identity
from kd_ray.cache.target_set import OUTPUT_FILE, TARGET_SET_FILE, Output
from kd_ray.cache.view_store import VIEW_SET_FILE, ViewStore, view_store_of
from kd_ray.errors import CacheCorrupt, CacheIncomplete, RecipeError
from kd_ray.storage import Storage, digest_of_json, join, open_storage, redacted
from kd_ray.storage.base import canonical_json

VIEWS, TARGETS = "views", "targets"
NEEDED = {
    VIEW_SET_FILE: (),
    TARGET_SET_FILE: ("format", "view_set"),
    OUTPUT_FILE: ("format", "output", "shape", "codec"),
}

Entry = ViewStore | Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """View sets and outputs by their path below the cache, such as `targets/teacher-0123456789ab/summary-…`.

    `target_sets` are by path too, with or without outputs. `unnamed` are folders where an identity file is absent.
    """

    uri: str
    view_sets: Mapping[str, ViewStore]
    target_sets: Mapping[str, Spec]
    outputs: Mapping[str, Output]
    unnamed: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def entries(self) -> dict[str, Entry]:
        """View sets, then outputs."""
        return {**self.view_sets, **self.outputs}

    def matching(self, name: str) -> dict[str, Entry]:
        """The entry at the path `name`, or else all whose path contains it.

        Raises:
            RecipeError: there is none.
        """
        entries = self.entries
        found = {name: entries[name]} if name in entries else {path: entries[path] for path in entries if name in path}
        if not found:
            raise RecipeError(
                f"{redacted(self.uri)}: nothing in this cache is called {name}. It holds "
                f"{', '.join(entries) or 'nothing'}. Give one of these, or a part of its name."
            )
        return found

    def one(self, name: str, among: Mapping[str, Entry]) -> tuple[str, Entry]:
        """The only entry of `among` that `name` means.

        Raises:
            RecipeError: it means none, or several.
        """
        found = {path: entry for path, entry in self.matching(name).items() if path in among}
        if len(found) != 1:
            raise RecipeError(
                f"{redacted(self.uri)}: {name} may be {', '.join(found) or 'none'} of {', '.join(among) or 'nothing'}. "
                "Give more of the name."
            )
        ((path, entry),) = found.items()
        return path, entry

    def views_of(self, output: Output) -> ViewStore | None:
        """The view set that an output's targets were made from; None where it is not in this cache."""
        fingerprint = output.target_set.identity["view_set"]
        return next((each for each in self.view_sets.values() if each.spec.fingerprint == fingerprint), None)


def read_catalog(uri: str) -> Catalog:
    """Everything in the cache at `uri`.

    Raises:
        CacheIncomplete: there is neither a folder of views nor one of targets.
        StorageError: the location cannot be read.
    """
    root = open_storage(uri)
    if not {VIEWS, TARGETS} & set(root.folders("")):
        raise CacheIncomplete(
            f"{redacted(uri)}: holds no cache, neither {VIEWS}/ nor {TARGETS}/. Give the cache.uri of a recipe whose "
            "extract stage has run."
        )
    reader = _Reader(uri, findings=[], unnamed=[])
    view_sets = {
        path: view_store_of(storage, spec, recorded)
        for path, storage, spec, recorded in reader.identities(VIEWS, VIEW_SET_FILE)
    }
    target_sets = {path: spec for path, _, spec, _ in reader.identities(TARGETS, TARGET_SET_FILE)}
    outputs = {
        path: Output(target_set=target_set, spec=spec, collection=Collection(storage=storage, folder=spec.folder))
        for parent, target_set in target_sets.items()
        for path, storage, spec, _ in reader.identities(parent, OUTPUT_FILE)
    }
    return Catalog(
        uri=uri,
        view_sets=view_sets,
        target_sets=target_sets,
        outputs=outputs,
        unnamed=tuple(reader.unnamed),
        findings=tuple(reader.findings),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads identity files and keeps what is wrong with them."""

    uri: str
    findings: list[Finding]
    unnamed: list[str]

    def identities(self, parent: str, file_name: str) -> Sequence[tuple[str, Storage, Spec, dict[str, Any]]]:
        """Path, storage of `parent`, identity and what is recorded, of every folder below `parent` that has them."""
        storage = open_storage(join(self.uri, parent))
        found = []
        for folder in storage.folders(""):
            location = f"{storage.uri}/{folder}/{file_name}"
            try:
                document = read_identity(storage, f"{folder}/{file_name}")
                spec = _checked(document, folder=folder, file_name=file_name, location=location)
            except FileNotFoundError:
                self.unnamed.append(f"{parent}/{folder}")
            except CacheCorrupt as error:
                self.findings.append(Finding.of(error, location=location))
            else:
                found.append((f"{parent}/{folder}", storage, spec, document["recorded"]))
        return found


def _checked(document: Mapping[str, Any], *, folder: str, file_name: str, location: str) -> Spec:
    """The identity of a document, after all that can be said against it."""
    identity, recorded = document["identity"], document["recorded"]
    problem = None
    if not isinstance(identity, dict) or not isinstance(recorded, dict):
        problem = "identity and recorded are not both JSON objects"
    elif digest_of_json(identity) != document["fingerprint"]:
        problem = f"its identity has the fingerprint {digest_of_json(identity)[:12]}, stored {document['fingerprint']}"
    elif absent := [key for key in NEEDED[file_name] if key not in identity]:
        problem = f"its identity lacks {', '.join(absent)}"
    elif identity.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        problem = f"it has format {identity['format']}, this version reads {FORMAT_VERSION}"
    elif not folder.endswith(f"-{document['fingerprint'][:FINGERPRINT_DIGITS]}"):
        problem = f"it belongs into a folder that ends in -{document['fingerprint'][:FINGERPRINT_DIGITS]}"
    elif file_name == VIEW_SET_FILE and not _is_grid(recorded):
        problem = f"it records {canonical_json(recorded).decode()}, not how units are cut"
    if problem is not None:
        raise CacheCorrupt(f"{location}: {problem}. Restore the file; without it nothing in this folder can be read.")
    return Spec(name=folder[: -FINGERPRINT_DIGITS - 1], identity=json.loads(canonical_json(identity)))


def _is_grid(recorded: Mapping[str, Any]) -> bool:
    return all(
        type(recorded.get(key)) is int and recorded[key] > 0  # not isinstance: true is an int there
        for key in ("unit_row_groups", "unit_views")
    )

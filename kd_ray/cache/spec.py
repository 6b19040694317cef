"""What a target set and its outputs are: everything that decides a byte, and the fingerprint over it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kd_ray.cache.codecs import Coding
from kd_ray.errors import CacheCorrupt, FingerprintMismatch
from kd_ray.storage import Storage, digest_of_json
from kd_ray.storage.base import canonical_json

FORMAT_VERSION = 1
FINGERPRINT_DIGITS = 12
ABSENT = "(absent)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """An identity under a name; its folder is `<name>-<first digits of the fingerprint>`."""

    name: str
    identity: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the canonical identity."""
        return digest_of_json(self.identity)

    @property
    def folder(self) -> str:
        """The folder's name."""
        return f"{self.name}-{self.fingerprint[:FINGERPRINT_DIGITS]}"


def target_set_spec(name: str, *, teacher: Mapping[str, Any], view_set_fingerprint: str, corpus_id: str) -> Spec:
    """One teacher on one view set of one corpus. Outputs may still be added, so they are not part of it."""
    identity = {"format": FORMAT_VERSION, "corpus_id": corpus_id, "view_set": view_set_fingerprint, "teacher": teacher}
    return Spec(name=name, identity=identity)


def output_spec(
    name: str,
    *,
    coding: Coding,
    stage: int | None,
    pool: int | None = None,
    source: Mapping[str, Any] | None = None,
) -> Spec:
    """One output of a target set as stored; where they matter, the `stage` or other `source` in the network, and its
    pooling.
    """
    identity = {
        "format": FORMAT_VERSION,
        "output": name,
        "shape": list(coding.shape),
        "codec": coding.codec,
        "stage": stage,
        **({"pool": pool} if pool is not None else {}),
        **({"source": source} if source is not None else {}),
        **coding.identity(),
    }
    return Spec(name=name, identity=identity)


def write_or_check(storage: Storage, file_name: str, spec: Spec, *, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Create `<folder>/<file_name>` or compare it; returns what is recorded there (the first created wins).

    Raises:
        FingerprintMismatch: the folder holds something else than its name says.
        CacheCorrupt: the file cannot be read as JSON.
    """
    name = f"{spec.folder}/{file_name}"
    document = {"fingerprint": spec.fingerprint, "identity": spec.identity, "recorded": recorded}
    if storage.create(name, canonical_json(document)):
        return dict(recorded)
    return read_spec(storage, name, wanted=spec)


def read_spec(storage: Storage, name: str, *, wanted: Spec) -> dict[str, Any]:
    """What is recorded beside an identity, once the identity has been found to be the wanted one."""
    found = read_identity(storage, name)
    stored = json.loads(canonical_json(found["identity"]))
    if digest_of_json(stored) != wanted.fingerprint or found["fingerprint"] != wanted.fingerprint:
        path, old, new = first_difference(stored, json.loads(canonical_json(wanted.identity)))
        raise FingerprintMismatch(
            f"{storage.uri}/{name}: holds {str(found['fingerprint'])[:12]}, this recipe needs "
            f"{wanted.fingerprint[:12]}; first difference: {path}: {old!r} -> {new!r}. "
            "Use another cache.uri, or restore the old value."
        )
    return dict(found["recorded"])


def read_identity(storage: Storage, name: str) -> dict[str, Any]:
    """The whole document: fingerprint, identity, recorded."""
    try:
        found = json.loads(storage.read(name))
        return {key: found[key] for key in ("fingerprint", "identity", "recorded")}
    except (ValueError, KeyError, TypeError) as error:
        raise CacheCorrupt(
            f"{storage.uri}/{name}: is not a kd_ray identity file ({error}). Restore or rebuild it."
        ) from error


def explain_absence(storage: Storage, spec: Spec, *, file_name: str) -> str:
    """Why there is no `spec` here: the nearest relative of the same name and the first field in which it differs."""
    folders = [folder for folder in storage.folders("") if folder.rsplit("-", 1)[0] == spec.name]
    # a folder without its identity file is what a crash in the first moment of a run leaves
    relatives = [name for name in (f"{folder}/{file_name}" for folder in folders) if storage.exists(name)]
    if not relatives:
        return f"{storage.uri}: holds nothing named {spec.name}"
    wanted = json.loads(canonical_json(spec.identity))
    candidates = [read_identity(storage, name) for name in relatives]
    nearest = min(candidates, key=lambda each: sum(1 for _ in differences(each["identity"], wanted)))
    path, old, new = first_difference(nearest["identity"], wanted)
    return (
        f"{storage.uri}: {spec.name} was built as {nearest['fingerprint'][:12]}, this recipe needs "
        f"{spec.fingerprint[:12]}; first difference: {path}: {old!r} -> {new!r}"
    )


def first_difference(old: Any, new: Any) -> tuple[str, Any, Any]:
    """Dotted path, old and new value of the first field in which two identities differ."""
    return next(differences(old, new), ("(none)", old, new))


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field in which two JSON values differ, depth first, keys in order."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{path}.{index}")
    elif canonical_json(old) != canonical_json(new):  # 1 and 1.0 are equal, their fingerprints are not
        yield path, old, new

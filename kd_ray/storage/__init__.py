"""Named bytes below one location, local or on any fsspec URL, with conditional create for commits."""

from pathlib import Path

from kd_ray.storage.base import Storage, digest_of_json, join
from kd_ray.storage.fsspec_storage import FsspecStorage
from kd_ray.storage.local import LocalStorage
from kd_ray.storage.redact import redacted, redacted_text

__all__ = [
    "FsspecStorage",
    "LocalStorage",
    "Storage",
    "absolute",
    "digest_of_json",
    "is_remote",
    "join",
    "open_storage",
    "redacted",
    "redacted_text",
]


def is_remote(uri: str) -> bool:
    """Whether `uri` names something else than a path on this machine."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """`uri` as it can be given to a process in another folder."""
    return uri if is_remote(uri) else str(Path(uri.removeprefix("file://")).absolute())


def open_storage(uri: str) -> Storage:
    """Storage rooted at `uri`; nothing is created or contacted before the first call on it."""
    return FsspecStorage(uri) if is_remote(uri) else LocalStorage(uri.removeprefix("file://"))

"""Images that a table names by where they lie: paths below its source, or URLs elsewhere."""

import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kd_ray.config.corpus import Access
from kd_ray.corpus.source import Reason, Rejected
from kd_ray.corpus.sources.files import NUM_READERS, SourceFiles, beside
from kd_ray.corpus.sources.remote_files import HTTP, UnknownScheme
from kd_ray.errors import StorageError
from kd_ray.storage import is_remote, redacted

# A table may come from anywhere: no scheme that reads this machine, and no chain of several (`zip::file://`).
URL_SCHEMES = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf"})


@dataclass(frozen=True, slots=True)
class Unusable:
    """A location that gives no image, and why; `shown` is what people need to see of it to understand that."""

    reason: Reason
    shown: str = ""


def resolve(path: bytes, *, folder: str, files: SourceFiles) -> str | Unusable:
    """The location below `files`, or the URL, that a table in `folder` means by `path`."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return Unusable("unreadable")
    if not text:
        return Unusable("no_image")
    text = text.removeprefix("file://")
    scheme, separator, _ = text.partition("://")
    if separator:
        is_known = scheme in URL_SCHEMES or files.uri.startswith(f"{scheme}://")
        return text if is_known and "::" not in text else Unusable("unsafe_path")
    if text.startswith("/") and not is_remote(files.uri):
        text, folder = os.path.relpath(text, os.path.abspath(files.uri.removeprefix("file://"))), ""
    normal = posixpath.normpath(posixpath.join(folder, text))
    if "\0" in text or normal.startswith("/") or normal.split("/")[0] in ("..", "."):
        return Unusable("unsafe_path")
    return normal


def read_images(files: SourceFiles, locations: Sequence[str | Unusable]) -> list[bytes | Unusable]:
    """What lies at locations that `resolve` gave, in their order; held all at once.

    Raises:
        StorageError: the source itself, or an object storage, cannot be reached.
    """
    inside = [each for each in locations if isinstance(each, str) and "://" not in each]
    urls = [each for each in locations if isinstance(each, str) and "://" in each]
    found: dict[str, bytes | Unusable] = {}
    for location, data in files.read_each(inside):
        found[location] = Unusable(data.reason) if isinstance(data, Rejected) else data
    if urls:
        with ThreadPoolExecutor(NUM_READERS) as pool:
            found.update(zip(urls, pool.map(lambda url: read_url(url, files.access), urls), strict=True))
    return [found[each] if isinstance(each, str) else each for each in locations]


def read_url(url: str, access: Access) -> bytes | Unusable:
    """What lies at a URL that `resolve` gave. Where there can be nothing, it is missing: hosts, ports, buckets and
    repositories that cannot be, and schemes that nothing installed reads. `access` is how S3 is reached.

    Raises:
        StorageError: an object storage cannot be reached.
    """
    try:
        data = beside(url, access).read_or_refuse("")
    except UnknownScheme:
        return Unusable("missing", shown=redacted(url))
    except StorageError:
        if url.startswith(HTTP):  # one of many servers, gone as they go
            return Unusable("missing")
        raise
    return Unusable(data.reason) if isinstance(data, Rejected) else data

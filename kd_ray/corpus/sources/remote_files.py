"""Source files behind any fsspec URL; whatever goes wrong is an OSError here, as on a local disk."""

import html
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import fsspec
import fsspec.asyn
from botocore.exceptions import BotoCoreError, ParamValidationError  # type: ignore[import-untyped]

from kd_ray.config.corpus import Access
from kd_ray.corpus.source import Entry, Rejected
from kd_ray.corpus.sources.pattern import Pattern
from kd_ray.corpus.sources.read_errors import refused
from kd_ray.errors import CorpusError
from kd_ray.storage import redacted

S3 = ("s3://", "s3a://")
HTTP = ("http://", "https://")
CHUNK_BYTES = 8 << 20  # a request each

NO_NAMES = frozenset({"InvalidBucketName", "InvalidURI"})  # what S3 answers where botocore lets a name pass


class UnknownScheme(CorpusError):
    """A location of a kind that nothing installed here can read."""


@dataclass(frozen=True, slots=True)
class _Child:
    name: str
    is_folder: bool
    size_bytes: int
    version: str


@dataclass(frozen=True)
class RemoteFiles:
    """Files below `uri`, reached as `access` says. HTTP servers must list their folders as links."""

    uri: str
    access: Access

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        given = self.access.model_dump(exclude_defaults=True)
        options = {"anon" if name == "anonymous" else name: value for name, value in given.items()}
        try:
            fs, root = fsspec.core.url_to_fs(self.uri, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise UnknownScheme(
                f"{redacted(self.uri)}: cannot be reached: {error}. Correct the scheme, or install what it needs."
            ) from error
        return fs, str(root).rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    @property
    def _is_http(self) -> bool:
        return self.uri.startswith(HTTP)

    def path(self, location: str) -> str:
        """The location as the file system wants it."""
        root = self._opened[1]
        if not location:
            return root
        return f"{root}/{quote(location) if self._is_http else location}"

    def is_file(self) -> bool:
        """Whether the root is a file."""
        try:
            return not self._is_folder(self._info(""))
        except FileNotFoundError:
            return False

    def read(self, location: str) -> bytes:
        """The whole file."""
        with self._failing_as_local():
            return bytes(self._fs.cat_file(self.path(location)))

    def read_range(self, location: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`; fewer only where the file ends before."""
        with self._failing_as_local():
            if self._is_http:
                is_range, data = self._http_range(location, start, stop)
                return data if is_range else data[start:stop]
            try:
                return bytes(self._fs.cat_file(self.path(location), start=start, end=stop))
            except OSError:
                # S3 refuses a range that begins at or after the end (416), where a file gives nothing
                if start >= self._fs.size(self.path(location)):
                    return b""
                raise

    def open(self, location: str) -> BinaryIO:
        """The file opened for reading bytes; whole in memory where an HTTP server knows no ranges."""
        with self._failing_as_local():
            if self._is_http:
                is_range, data = self._http_range(location, 0, 1)
                if not is_range:
                    return io.BytesIO(data)
            file: BinaryIO = self._fs.open(self.path(location), "rb")
            return file

    def _http_range(self, location: str, start: int, stop: int) -> tuple[bool, bytes]:
        """Whether the server gives ranges, and that one, else the whole file: fsspec does not tell which it is."""
        url = self._fs.encode_url(self.path(location))
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

        async def get() -> tuple[bool, bytes]:
            session = await self._fs.set_session()
            async with session.get(url, headers=headers) as answer:
                if answer.status == 416:  # it begins at or after the end
                    return True, b""
                answer.raise_for_status()
                return answer.status == 206, await answer.read()

        result: tuple[bool, bytes] = fsspec.asyn.sync(self._fs.loop, get)
        return result

    def chunks(self, location: str) -> Iterator[bytes]:
        """The file from its beginning, piece by piece."""
        with self.open(location) as file, self._failing_as_local():
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def walk(self, below: str, pattern: Pattern | None) -> Iterator[Entry | Rejected]:
        """The file `below`, or all visible ones in that folder that match."""
        info = self._info(below)
        if not self._is_folder(info):
            if pattern is None:
                yield Entry(location=below, size_bytes=info["size"] or 0, version=_version(info))
            return
        open_folders = [(below, self._children(below))]
        while open_folders:
            folder, children = open_folders[-1]
            try:
                child = next(children, None)
            except OSError as error:
                reason = refused(error)
                if reason is None or len(open_folders) == 1:
                    raise
                yield Rejected(location=folder, reason=reason, size_bytes=0)
                child = None
            if child is None:
                open_folders.pop()
                continue
            location = f"{folder}/{child.name}" if folder else child.name
            if child.is_folder:
                if pattern is None or pattern.enters(location):
                    open_folders.append((location, self._children(location)))
            elif pattern is None or pattern.takes(location):
                yield Entry(location=location, size_bytes=child.size_bytes, version=child.version)

    def _children(self, folder: str) -> Iterator[_Child]:
        with self._failing_as_local():
            found = self._s3_children(folder) if self.uri.startswith(S3) else self._listed_children(folder)
            for child in found:
                if not child.name.startswith("."):
                    yield child

    def _s3_children(self, folder: str) -> Iterator[_Child]:
        """Page by page in the order of S3: fsspec's own listing holds a kilobyte a file."""
        bucket, key, _ = self._fs.split_path(self.path(folder))
        prefix = f"{key}/" if key else ""
        request = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        while True:
            page = self._fs.call_s3("list_objects_v2", **request)
            files = {
                each["Key"]: _Child(each["Key"][len(prefix) :], False, each["Size"], each["ETag"])
                for each in page.get("Contents", ())
                if each["Key"] != prefix
            }
            folders = {
                each["Prefix"]: _Child(each["Prefix"][len(prefix) : -1], True, 0, "")
                for each in page.get("CommonPrefixes", ())
            }
            for _, child in sorted((files | folders).items()):
                yield child
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _listed_children(self, folder: str) -> Iterator[_Child]:
        above = self.path(folder) + "/"
        children = []
        for info in self._fs.ls(above[:-1], detail=True):
            name = info["name"][len(above) :].rstrip("/")
            if self._is_http:  # links of the page; those with a query sort it
                name = html.unescape(name)
                name = "" if "?" in name or "#" in name else unquote(name)
            if name and "/" not in name:
                is_folder = info["type"] == "directory"
                children.append(_Child(name, is_folder, info.get("size") or 0, _version(info)))
        yield from sorted(children, key=lambda child: (child.name, child.is_folder))

    def _info(self, location: str) -> dict[str, Any]:
        with self._failing_as_local():
            info: dict[str, Any] = self._fs.info(self.path(location))
            return info

    def _is_folder(self, info: dict[str, Any]) -> bool:
        if self._is_http:  # where a folder is a page like any other
            return str(info.get("url", "")).endswith("/") or info.get("mimetype") == "text/html"
        return bool(info["type"] == "directory")

    @contextmanager
    def _failing_as_local(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if self._is_http and error.__cause__ is not None:  # fsspec says so of every failure to ask
                raise _as_os_error(error.__cause__) from error
            raise
        except self._failures as error:
            raise _as_os_error(error) from error
        except OSError as error:
            if _s3_code(error) in NO_NAMES:
                raise FileNotFoundError(str(error)) from error
            raise
        except CorpusError:
            raise
        except json.JSONDecodeError as error:  # a server that answers nonsense
            raise OSError(str(error)) from error
        except (ValueError, NotImplementedError) as error:  # a host, a port or a repository that cannot be
            raise FileNotFoundError(str(error)) from error

    @cached_property
    def _failures(self) -> tuple[type[Exception], ...]:
        if not self._is_http:
            return (BotoCoreError,)  # no credentials, no such host
        import aiohttp  # a third of a second, and only HTTP needs it

        return (aiohttp.ClientError,)


def _version(info: dict[str, Any]) -> str:
    keys = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "created")
    return next((str(info[key]) for key in keys if info.get(key)), "")


def _s3_code(error: OSError) -> str | None:
    """The code of the answer that s3fs made an error of."""
    code: str | None = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code


def _as_os_error(error: BaseException) -> OSError:
    if isinstance(error, ParamValidationError):  # no bucket or key can have that name
        return FileNotFoundError(str(error))
    match getattr(error, "status", None):
        case 404 | 410:
            return FileNotFoundError(str(error))
        case 401 | 403:
            return PermissionError(str(error))
    return error if isinstance(error, OSError) else OSError(str(error))

"""A stored file read in a few big ranges."""

import io

from kd_ray.corpus.sources.files import SourceFiles
from kd_ray.errors import StorageError


class RangeFile(io.RawIOBase):
    """A stored file of known size, seekable, read range by range; holds at most `read_ahead` bytes of the last one.

    Raises:
        StorageError: the file has become shorter than `size_bytes`, or cannot be read.
    """

    def __init__(self, files: SourceFiles, location: str, *, size_bytes: int, read_ahead: int = 0) -> None:
        super().__init__()
        self._files = files
        self._location = location
        self._size = size_bytes
        self._read_ahead = read_ahead
        self._position = 0
        self._start = 0  # of the range that is held
        self._held = b""

    @property
    def size_bytes(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        if self._position < self._start or stop > self._start + len(self._held):
            self._held = b""  # released first: two ranges are never held
            data = self._range(min(max(stop, self._position + self._read_ahead), self._size))
            if len(data) == stop - self._position:
                self._position = stop
                return data
            self._held, self._start = data, self._position
        data = self._held[self._position - self._start : stop - self._start]
        self._position = stop
        return data

    def _range(self, stop: int) -> bytes:
        data = self._files.read_range(self._location, self._position, stop)
        if len(data) != stop - self._position:
            raise StorageError(
                f"{self._files.where(self._location)}: got {len(data)} bytes from {self._position}, "
                f"expected {stop - self._position}: the file changes, or its server does not serve ranges. "
                "Let the source rest, then pack again."
            )
        return data

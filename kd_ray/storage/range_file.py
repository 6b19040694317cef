"""A stored file read range by range."""

import io
from collections.abc import Callable

ReadRange = Callable[[int, int], bytes]


class RangeFile(io.RawIOBase):
    """A file of known size, seekable, whose bytes come from `read_range(start, stop)`.

    With `read_ahead` it asks for at least so many bytes at once, and holds those of the last range. Where the range is
    shorter than it was asked for, so is what is read.
    """

    def __init__(self, read_range: ReadRange, *, size_bytes: int, read_ahead: int = 0) -> None:
        super().__init__()
        self._read_range = read_range
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
            data = self._read_range(self._position, min(max(stop, self._position + self._read_ahead), self._size))
            if len(data) <= stop - self._position:
                self._position += len(data)
                return data
            self._held, self._start = data, self._position
        data = self._held[self._position - self._start : stop - self._start]
        self._position = stop
        return data

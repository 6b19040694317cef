"""A file of a source read in a few big ranges."""

from kd_ray.corpus.sources.files import SourceFiles
from kd_ray.errors import StorageError
from kd_ray.storage.range_file import RangeFile


def open_ranges(files: SourceFiles, location: str, *, size_bytes: int, read_ahead: int = 0) -> RangeFile:
    """The file at `location`, which was `size_bytes` long when it was listed.

    Reading from it raises StorageError where the file has become shorter, or cannot be read.
    """

    def read_range(start: int, stop: int) -> bytes:
        data = files.read_range(location, start, stop)
        if len(data) != stop - start:
            raise StorageError(
                f"{files.where(location)}: got {len(data)} bytes from {start}, expected {stop - start}: the file "
                "changes, or its server does not serve ranges. Let the source rest, then pack again."
            )
        return data

    return RangeFile(read_range, size_bytes=size_bytes, read_ahead=read_ahead)

"""Whether an object is still the one it was, without reading it."""

import fsspec

from kd_ray.errors import StorageError


def signature(uri: str) -> str:
    """Changes when the object at `uri` is replaced: from its size and time, or the server's ETag.

    Raises:
        StorageError: there is no such object, or it cannot be looked at.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        return str(filesystem.ukey(path))
    except OSError as error:
        raise StorageError(f"{uri}: cannot be read: {error}.") from error

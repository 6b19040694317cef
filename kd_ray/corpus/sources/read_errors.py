"""Which errors of reading are the fault of one input, not of the whole location."""

import errno

from kd_ray.corpus.source import Reason


class NotAFile(OSError):
    """What lies there is a folder, a pipe, a socket or a device."""


def refused(error: OSError) -> Reason | None:
    """Why this one file cannot be read; None where the trouble is larger than that."""
    if isinstance(error, NotAFile | IsADirectoryError) or error.errno == errno.ENXIO:
        return "not_a_file"
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG:
        return "missing"
    if isinstance(error, PermissionError):
        return "permission_denied"
    return "symlink_loop" if error.errno == errno.ELOOP else None


def refused_content(error: OSError, *, is_local: bool) -> Reason | None:
    """As `refused`, for a file that is being read: a bad sector is the fault of the file that lies on it.

    Only on this machine: s3fs says EIO of whatever it has no number for.
    """
    return "unreadable" if is_local and error.errno == errno.EIO else refused(error)

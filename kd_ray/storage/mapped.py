"""Ranges of local files as arrays: mapped where they are large, so that no copy of the page cache is made.

A mapped file must not be cut short while it is in use, or the system ends the process (SIGBUS), as with any mapped
file. What is committed never changes; whoever removes it leaves the mapped pages as they are.
"""

import errno
import mmap
import os

import numpy as np

from kd_ray.storage.base import Bytes

LEAST_MAPPED_BYTES = 1 << 18  # below, mapping and unmapping cost more than copying
# as many files as the process may have open (Python's maps keep one each), or a file system that does not map
NOT_MAPPABLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENOMEM, errno.EAGAIN})


def mapped_or_read(descriptor: int, *, offset: int, length: int) -> Bytes:
    """`length` bytes from `offset`, fewer only where the file ends before; read-only where they are mapped."""
    length = max(min(length, os.fstat(descriptor).st_size - offset), 0)
    if length >= LEAST_MAPPED_BYTES:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)
        try:
            return _mapped(descriptor, offset=offset, length=length)
        except OSError as error:
            if error.errno not in NOT_MAPPABLE:
                raise
    return _read(descriptor, offset=offset, length=length)


def _mapped(descriptor: int, *, offset: int, length: int) -> Bytes:
    before = offset % mmap.ALLOCATIONGRANULARITY
    mapping = mmap.mmap(descriptor, before + length, access=mmap.ACCESS_READ, offset=offset - before)
    return np.frombuffer(mapping, dtype=np.uint8, offset=before)  # which keeps the mapping as long as it lives


def _read(descriptor: int, *, offset: int, length: int) -> Bytes:
    buffer = np.empty(length, dtype=np.uint8)
    done = 0
    while done < length:
        count = os.preadv(descriptor, [buffer.data[done:]], offset + done)
        if not count:
            break
        done += count
    return buffer[:done]

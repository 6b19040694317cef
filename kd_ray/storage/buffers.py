"""Memory for large arrays that is used again: fresh pages of the system cost several times what reading them does."""

import os
import threading
import weakref
from collections import deque

import numpy as np

from kd_ray.storage.base import Bytes

LEAST_BYTES = 1 << 17  # below, malloc keeps its memory by itself
STEP_BYTES = 1 << 16  # lengths are rounded up, so that blocks of nearly one length serve each other


class Buffers:
    """Blocks that come back by themselves when nothing refers to an array taken from them any more.

    What lies idle is never more than what was in use at once. Any thread may take, and arrays may end in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Bytes] = []
        self._returned: deque[Bytes] = deque()  # an array may end while its own thread holds the lock
        self._in_use_bytes = 0
        self._peak_bytes = 0

    def take(self, num_bytes: int) -> Bytes:
        """An uninitialised, writable array of so many bytes."""
        if num_bytes < LEAST_BYTES:
            return np.empty(num_bytes, dtype=np.uint8)
        with self._lock:
            block = self._block(-(-num_bytes // STEP_BYTES) * STEP_BYTES)
        # arrays made from this one refer to it, not to the block: their base is no array
        array = np.frombuffer(block.data, dtype=np.uint8, count=num_bytes)
        weakref.finalize(array, self._returned.append, block).atexit = False
        return array

    @property
    def idle_bytes(self) -> int:
        """What is kept for the next ones."""
        with self._lock:
            self._collect()
            return sum(map(len, self._idle))

    def _block(self, num_bytes: int) -> Bytes:
        self._collect()
        self._in_use_bytes += num_bytes
        for place in range(len(self._idle) - 1, -1, -1):  # the last one returned is the likeliest to be in the caches
            if len(self._idle[place]) == num_bytes:
                return self._idle.pop(place)
        self._peak_bytes = max(self._peak_bytes, self._in_use_bytes)
        while self._idle and self._in_use_bytes + sum(map(len, self._idle)) > self._peak_bytes:
            self._idle.pop(0)
        return np.empty(num_bytes, dtype=np.uint8)

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._in_use_bytes -= len(block)
            self._idle.append(block)

    def after_fork(self) -> None:
        """In a forked child, whose parent may have been taking memory just then."""
        self._lock = threading.Lock()


shared = Buffers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared.after_fork)

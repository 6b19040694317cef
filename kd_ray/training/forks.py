"""What makes worker processes safe that are forked from a process in which OpenCV already runs threads."""

import os
from functools import cache

import cv2


@cache
def rest_opencv_at_forks() -> None:
    """From now on OpenCV has one thread whenever this process forks; here it gets back what it had.

    A child has none of the threads of OpenCV's pool, and waits for them for ever once it sets another number.
    """
    if not hasattr(os, "register_at_fork"):  # Windows, which never forks
        return
    before: list[int] = []

    def rest() -> None:
        before.append(cv2.getNumThreads())
        cv2.setNumThreads(1)

    os.register_at_fork(before=rest, after_in_parent=lambda: cv2.setNumThreads(before.pop()))

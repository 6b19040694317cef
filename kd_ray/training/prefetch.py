"""Run an iterator ahead of its consumer in one thread."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_S = 0.2


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Finished:
    """Marks the end of the stream in the queue."""


class prefetched(Generic[T], Iterator[T]):  # noqa: N801  # reads as the function it is: prefetched(batches, depth=4)
    """The items of `iterator`, up to `depth` of them made ahead; an error inside is raised where the item was due."""

    def __init__(self, iterator: Iterator[T], *, depth: int) -> None:
        self._queue: queue.Queue[T | _Failure | _Finished] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(iterator,), name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _Finished):
            self._queue.put(item)
            raise StopIteration
        if isinstance(item, _Failure):
            self._queue.put(item)
            raise item.error
        return item

    def close(self) -> None:
        """Stop making items and wait until the thread has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self, iterator: Iterator[T]) -> None:
        try:
            for item in iterator:
                if not self._put(item):
                    break
            self._put(_Finished())
        except BaseException as error:  # noqa: BLE001  # carried to the consumer, who raises it
            self._put(_Failure(error))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _put(self, item: "T | _Failure | _Finished") -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False

"""Reading a cache while another run fills it: what is not there yet is looked for again, until it is."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import Output, find_output
from kd_ray.cache.units import Span, Unit
from kd_ray.errors import CacheIncomplete

Found = TypeVar("Found")

GROWTH = 1.5  # of the pause from one look to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How a run waits: it gives up where `limit_s` have passed without anything being committed."""

    limit_s: float
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0


class Patience:
    """Waits for whatever a run reads; `num_committed` counts what is there of all that, and `on_wait` is told.

    Threads may wait at the same time.
    """

    def __init__(
        self,
        settings: Waiting,
        *,
        num_committed: Callable[[], int],
        on_wait: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._num_committed = num_committed
        self._on_wait = on_wait
        self._clock = clock
        self._stopped = threading.Event()
        self._known = num_committed()

    def wait_for(self, look: Callable[[], Found | None], *, what: str, where: str) -> Found:
        """What `look` finds, as soon as it finds it; `what` and `where` say what that is.

        Raises:
            CacheIncomplete: nothing was committed for too long, or the run ends.
        """
        found = look()
        since, since_s = datetime.now(UTC), self._clock()
        pause_s = self._settings.first_pause_s
        while found is None:
            self._on_wait(f"waits for {what} since {since:%H:%M:%S} UTC")
            if self._stopped.wait(pause_s):
                raise CacheIncomplete(f"{where}: {what} was not committed before the run ended.")
            found = look()
            if found is None and self._clock() - since_s >= self._settings.limit_s:
                self._refuse_standstill(what, where=where)
                since_s = self._clock()
            pause_s = min(pause_s * GROWTH, self._settings.longest_pause_s)
        return found

    def stop(self) -> None:
        """The run ends: whoever waits stops at once."""
        self._stopped.set()

    def _refuse_standstill(self, what: str, *, where: str) -> None:
        before, self._known = self._known, self._num_committed()
        if self._known == before:
            raise CacheIncomplete(
                f"{where}: {what} is not committed, and nothing that this run reads was in the last "
                f"{self._settings.limit_s:g} s (train.wait_limit_s). Start the run that extracts, with the same "
                "corpus, views and cache settings, and train again; training goes on from its last checkpoint."
            )


class AwaitedUnits(Mapping[tuple[Span, int], Commit]):
    """The commits of all `wanted` units by (span, view); asking for one that is not there yet waits for it."""

    def __init__(self, collection: Collection, wanted: Sequence[Unit], *, patience: Patience) -> None:
        self._collection = collection
        self._patience = patience
        self._unit_of = {(unit.span, view): unit for unit in wanted for view in range(unit.view_start, unit.view_stop)}
        there = collection.newest_generations()
        self._commits = dict(collection.pin([unit for unit in wanted if unit in there]))

    def __getitem__(self, place: tuple[Span, int]) -> Commit:
        unit = self._unit_of[place]
        if place not in self._commits:
            commit = self._patience.wait_for(
                lambda: self._collection.find(unit),
                what=f"unit {unit.id} of {self._collection.folder}",
                where=self._collection.storage.uri,
            )
            self._commits |= {(unit.span, view): commit for view in range(unit.view_start, unit.view_stop)}
        return self._commits[place]

    def __iter__(self) -> Iterator[tuple[Span, int]]:
        return iter(self._unit_of)

    def __len__(self) -> int:
        return len(self._unit_of)


def awaited_output(cache_uri: str, target_set: Spec, spec: Spec, *, patience: Patience) -> Output:
    """The output once it exists, and its calibration where it has one.

    Raises:
        FingerprintMismatch: the folder holds something else than its name says.
        CacheIncomplete: nothing was committed for too long.
    """

    def look() -> Output | None:
        output = find_output(cache_uri, target_set, spec)
        if output is None or (output.coding.needs_calibration and output.calibration() is None):
            return None
        return output

    return patience.wait_for(look, what=f"{target_set.folder}/{spec.folder}", where=f"{cache_uri}/targets")

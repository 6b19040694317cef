"""The extract stage on Ray: teachers that the cluster holds together run at the same time, others in turn."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import ray

from kd_ray.cache.units import Unit
from kd_ray.engine.data import configure_ray_data
from kd_ray.engine.nodes import Node, alive, lacking, take_turns
from kd_ray.engine.pool import Failed, Noted, Told, run_pool
from kd_ray.errors import ClusterError, ExtractionError
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.pools import Lane, lanes_of
from kd_ray.extraction.unit import UnitReport

LOOK_EVERY_S = 20  # at nodes that a teacher waits for
MAX_FAILED_UNITS = 16  # after as many the rest is not tried: more likely all of it is wrong than each of them
NUM_TOLD = 8

OnReport = Callable[[TargetPlan, UnitReport], None]
Tell = Callable[[str], None]


def extract_units(plans: Sequence[TargetPlan], *, can_grow: bool, on_report: OnReport, tell: Tell) -> None:
    """Compute and commit what is missing of `plans`, telling of each unit as it is done, and in words of what happens
    on the way. Units that fail do not keep the others from being done.

    Raises:
        ClusterError: no node can run a teacher, and none will come (`can_grow`).
        ExtractionError: units that failed, after all the others were done.
        KdRayError: whatever else of the project's own errors a worker raised.
    """
    configure_ray_data()
    lanes = lanes_of(plans)
    nodes = _nodes()
    for lane in lanes:
        missing = lacking(lane.resources, nodes)
        if missing is not None and not can_grow:
            raise ClusterError(f"teacher {lane.name}: {missing}. Change its resources in the recipe, or the cluster.")
    turns = take_turns([lane.resources for lane in lanes], nodes, can_grow=can_grow)
    if len(lanes) > 1:
        tell(_order(lanes, [list(turn.max_workers) for turn in turns]))
    failed: list[Failed] = []
    for turn in turns:
        pools = {lanes[number].name: _of_lane(lanes[number], most) for number, most in turn.max_workers.items()}
        with _watched({lanes[number].name: lanes[number] for number in turn.max_workers}, tell) as seen:
            for name, told in _together(pools):
                seen.add(name)
                _take(told, failed, on_report=on_report, tell=tell)
    if failed:
        raise ExtractionError(_told(failed, "All other units are committed."))


def _take(told: Told, failed: list[Failed], *, on_report: OnReport, tell: Tell) -> None:
    match told:
        case Failed():
            failed.append(told)
            tell(f"unit {told.unit.id} of teacher {told.teacher} failed: {told.reason}")
            if len(failed) >= MAX_FAILED_UNITS:
                raise ExtractionError(_told(failed, "The rest was not tried."))
        case Noted():
            tell(told.note)
        case _:
            on_report(*told)


def _of_lane(lane: Lane, max_workers: int) -> Iterator[Told]:
    for pool in lane.pools:
        yield from run_pool(pool, max_workers=max_workers)


def _together(lanes: dict[str, Iterator[Told]]) -> Iterator[tuple[str, Told]]:
    """What all lanes tell, in the order of time; one alone runs in this thread."""
    if len(lanes) == 1:
        ((name, only),) = lanes.items()
        yield from ((name, told) for told in only)
        return
    waiting: queue.SimpleQueue[tuple[str, Told] | Future[None]] = queue.SimpleQueue()

    def follow(name: str, lane: Iterator[Told]) -> None:
        for told in lane:
            waiting.put((name, told))

    threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="teacher")
    try:
        for name, lane in lanes.items():
            threads.submit(follow, name, lane).add_done_callback(waiting.put)
        left = len(lanes)
        while left:
            found = waiting.get()
            if isinstance(found, Future):
                found.result()  # raises what ended the lane
                left -= 1
            else:
                yield found
    finally:
        threads.shutdown(wait=False)  # after an error the others end with Ray


@contextmanager
def _watched(lanes: dict[str, Lane], tell: Tell) -> Iterator[set[str]]:
    """Tells, during a block, of lanes that wait for nodes; those that have told something are added by the caller."""
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        told: dict[str, str] = {}
        while not stop.wait(LOOK_EVERY_S):
            nodes = _nodes()
            for name, lane in lanes.items():
                missing = None if name in seen else lacking(lane.resources, nodes)
                if missing is not None and told.get(name) != missing:
                    told[name] = missing
                    tell(f"teacher {name} waits: {missing}.")

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _nodes() -> list[Node]:
    return alive(ray.nodes())  # type: ignore[no-untyped-call]


def _order(lanes: Sequence[Lane], turns: Sequence[Sequence[int]]) -> str:
    told = ", then ".join(", ".join(lanes[number].name for number in turn) for turn in turns)
    return f"teachers, at the same time where the cluster holds them: {told}"


def _told(failed: Sequence[Failed], rest: str) -> str:
    units: list[Unit] = [each.unit for each in failed]
    reasons = " ".join(f"[{each.teacher}] {each.reason}" for each in failed[:NUM_TOLD])
    more = f" … and {len(failed) - NUM_TOLD} more." if len(failed) > NUM_TOLD else ""
    return f"{len(failed)} unit(s) failed: {', '.join(unit.id for unit in units)}. {reasons}{more} {rest}"

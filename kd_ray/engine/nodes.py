"""What teachers ask of nodes, and what nodes have: who can run at the same time, and what is missing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.config.resources import ACCELERATOR_LABEL, MARKET_LABEL, TeacherResources

NODE_LABEL = "ray.io/node-id"
Selector = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that is alive, and all that it has (not what is free of it now)."""

    id: str
    num_cpus: float
    num_gpus: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Lanes, by number, that run at the same time, with the most workers each may have."""

    max_workers: Mapping[int, int]


def alive(records: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The living among the records of `ray.nodes()`."""
    return [
        Node(
            id=each["NodeID"],
            num_cpus=each["Resources"].get("CPU", 0),
            num_gpus=each["Resources"].get("GPU", 0),
            labels={NODE_LABEL: each["NodeID"], **each.get("Labels", {})},
        )
        for each in records
        if each["Alive"]
    ]


def selectors(resources: TeacherResources, *, avoid: Collection[str] = ()) -> list[Selector]:
    """Labels of the nodes to run on: the wanted first, then those that will do. Nodes in `avoid` are for the last."""
    needed: Selector = dict(resources.labels)
    if resources.accelerators:
        needed[ACCELERATOR_LABEL] = f"in({','.join(sorted(resources.accelerators))})"
    match resources.spot:
        case "require":
            found = [{**needed, MARKET_LABEL: "spot"}]
        case "never":
            found = [{**needed, MARKET_LABEL: "!spot"}]
        case "prefer":
            found = [{**needed, MARKET_LABEL: "spot"}, needed]
        case None:
            found = [needed]
    if not avoid:
        return found
    elsewhere = f"!in({','.join(sorted(avoid))})"
    return [{**each, NODE_LABEL: elsewhere} for each in found] + found


def fits(selector: Mapping[str, str], node: Node) -> bool:
    """Whether a node has the labels of a selector, as Ray decides it."""
    return all(_matches(wanted, node.labels.get(name)) for name, wanted in selector.items())


def _matches(wanted: str, found: str | None) -> bool:
    if wanted.startswith("!"):
        return not _matches(wanted[1:], found)
    if wanted.startswith("in("):
        return found in [each.strip() for each in wanted[3:-1].split(",")]
    return found == wanted


def lacking(resources: TeacherResources, nodes: Sequence[Node]) -> str | None:
    """What no node has that one worker needs, and what there is; None where a worker can run."""
    labelled = [node for node in nodes if any(fits(each, node) for each in selectors(resources))]
    if not labelled:
        wanted = " or ".join(_told(each) for each in selectors(resources))
        there = "; ".join(sorted({_told(_without_own(node.labels)) for node in nodes})) or "no node"
        return f"no node has the labels {wanted}. There are: {there}"
    if any(node.num_cpus >= resources.num_cpus and node.num_gpus >= resources.num_gpus for node in labelled):
        return None
    there = ", ".join(sorted({f"{node.num_cpus:g} CPU and {node.num_gpus:g} GPU" for node in labelled}))
    return (
        f"a worker takes {resources.num_cpus:g} CPU and {resources.num_gpus:g} GPU of one node, and no node that may "
        f"be taken has as much. There are nodes of {there}"
    )


def _without_own(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != NODE_LABEL}


def _told(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "no labels"


def take_turns(wanted: Sequence[TeacherResources], nodes: Sequence[Node], *, can_grow: bool) -> list[Turn]:
    """Which lanes run at the same time: those whose smallest pools the nodes hold together, in the order given.

    Pools that compete for the same CPUs would wait for each other. A lane that no node can run now holds nothing, and
    waits beside the others for a node that comes. Where rendering is `split`, a CPU is left for its tasks.
    """

    def most(resources: TeacherResources, num_workers: int, room: _Room) -> int:
        if can_grow:
            return resources.max_workers
        while num_workers < resources.max_workers and room.take(resources, 1):
            num_workers += 1
        return num_workers

    turns: list[Turn] = []
    left = list(range(len(wanted)))
    while left:
        room = _Room(nodes)
        chosen: dict[int, int] = {}
        for number in left:
            resources = wanted[number]
            if lacking(resources, nodes) is not None or room.take(resources, resources.min_workers):
                chosen[number] = resources.min_workers
            elif not chosen:
                chosen[number] = resources.min_workers  # too large for what is there now, even alone
        turns.append(Turn(max_workers={number: most(wanted[number], least, room) for number, least in chosen.items()}))
        left = [number for number in left if number not in chosen]
    return turns


class _Room:
    """What is free of each node while workers are placed, first fit."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._free = {node.id: (node.num_cpus, node.num_gpus) for node in nodes}
        self._nodes = nodes
        self._left_for_rendering = False

    def take(self, resources: TeacherResources, count: int) -> bool:
        """Place `count` workers, or none of them."""
        free = dict(self._free)
        if resources.placement == "split" and not self._left_for_rendering:
            roomiest = max(free, key=lambda node: free[node][0], default=None)
            if roomiest is None or free[roomiest][0] < 1:
                return False
            free[roomiest] = (free[roomiest][0] - 1, free[roomiest][1])
        for _ in range(count):
            where = next((node.id for node in self._nodes if self._holds(resources, node, free[node.id])), None)
            if where is None:
                return False
            free[where] = (free[where][0] - resources.num_cpus, free[where][1] - resources.num_gpus)
        self._left_for_rendering |= resources.placement == "split"
        self._free = free
        return True

    @staticmethod
    def _holds(resources: TeacherResources, node: Node, free: tuple[float, float]) -> bool:
        rounding = 1e-9  # of fractions of a GPU
        return (
            free[0] + rounding >= resources.num_cpus
            and free[1] + rounding >= resources.num_gpus
            and any(fits(each, node) for each in selectors(resources))
        )

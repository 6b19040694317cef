"""Who has begun which unit: how a unit that kills its workers is told from one whose node has gone."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_ray.engine.nodes import alive


class Attempts:
    """The nodes on which units were begun; a plain class, of which `start_attempts` makes a remote one."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}

    def begin(self, unit_id: str, node_id: str) -> bool:
        """Whether a worker on a node may try a unit: not where an earlier one died of it, though its node lives on."""
        earlier = self._begun.get(unit_id)
        nodes = [] if earlier is None else alive(ray.nodes())  # type: ignore[no-untyped-call]
        if earlier in {node.id for node in nodes}:
            return False
        self._begun[unit_id] = node_id
        return True

    def node_of(self, unit_id: str) -> str:
        """Where a unit was begun last."""
        return self._begun[unit_id]


def start_attempts() -> Any:
    """A remote one on this node, which is that of the run: it must not go with a spot node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0, scheduling_strategy=here)  # type: ignore[call-overload]
    return remote(Attempts).remote()

"""Who can run at the same time on which nodes, and what is said of a teacher that no node can run."""

from typing import Any

import pytest
from pydantic import ValidationError

from kd_ray.config.resources import TeacherResources
from kd_ray.engine.nodes import NODE_LABEL, Node, alive, fits, lacking, selectors, take_turns


def node(name: str, cpus: float, gpus: float = 0, **labels: str) -> Node:
    named = {f"ray.io/{key.replace('_', '-')}": value for key, value in labels.items()}
    return Node(id=name, num_cpus=cpus, num_gpus=gpus, labels={NODE_LABEL: name, **named})


def teacher(**changes: Any) -> TeacherResources:
    return TeacherResources.model_validate(changes)


SPOT, ON_DEMAND = node("a", 4, 1, market_type="spot"), node("b", 4, 1, market_type="on-demand")


class TestSelectors:
    @pytest.mark.parametrize(
        ("spot", "wanted"),
        [
            (None, [{}]),
            ("require", [{"ray.io/market-type": "spot"}]),
            ("never", [{"ray.io/market-type": "!spot"}]),
            ("prefer", [{"ray.io/market-type": "spot"}, {}]),
        ],
    )
    def test_spot(self, spot: str | None, wanted: list[dict[str, str]]) -> None:
        assert selectors(teacher(spot=spot)) == wanted

    def test_a_node_to_be_avoided_is_taken_only_where_there_is_no_other(self) -> None:
        found = selectors(teacher(labels={"pool": "x"}), avoid={"b", "a"})
        assert found == [{"pool": "x", NODE_LABEL: "!in(a,b)"}, {"pool": "x"}]

    def test_accelerators_are_labels(self) -> None:
        sizes = {"L4": {"batch_size_per_worker": 8}, "A100": {"batch_size_per_worker": 64}}
        found = selectors(teacher(num_gpus=1, accelerators=sizes))
        assert found == [{"ray.io/accelerator-type": "in(A100,L4)"}]

    @pytest.mark.parametrize(
        ("wanted", "found", "fit"),
        [
            ("a", "a", True),
            ("a", None, False),
            ("!a", "b", True),
            ("!a", None, True),
            ("in(a, b)", "b", True),
            ("in(a,b)", "c", False),
            ("!in(a,b)", "b", False),
            ("!in(a,b)", "c", True),
        ],
    )
    def test_values(self, wanted: str, found: str | None, fit: bool) -> None:
        labels = {} if found is None else {"pool": found}
        assert fits({"pool": wanted}, Node(id="a", num_cpus=1, num_gpus=0, labels=labels)) is fit

    @pytest.mark.parametrize("value", ["in()", "in(a,", "a b", "", "!!a"])
    def test_a_label_that_ray_would_not_understand_is_refused(self, value: str) -> None:
        with pytest.raises(ValidationError, match="labels"):
            teacher(labels={"pool": value})

    def test_a_label_that_another_setting_decides_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="which spot decides"):
            teacher(spot="never", labels={"ray.io/market-type": "spot"})


class TestLacking:
    def test_nothing_where_a_worker_fits(self) -> None:
        assert lacking(teacher(num_cpus=4, num_gpus=0.5, spot="never"), [SPOT, ON_DEMAND]) is None

    def test_more_than_any_node_has(self) -> None:
        told = lacking(teacher(num_gpus=2), [SPOT, node("c", 8)])
        assert told is not None
        assert "takes 1 CPU and 2 GPU of one node" in told
        assert "nodes of 4 CPU and 1 GPU, 8 CPU and 0 GPU" in told

    def test_a_label_that_no_node_has(self) -> None:
        told = lacking(teacher(spot="require"), [ON_DEMAND, node("c", 1)])
        assert told == (
            "no node has the labels ray.io/market-type=spot. There are: no labels; ray.io/market-type=on-demand"
        )

    def test_the_dead_do_not_count(self) -> None:
        record = {"NodeID": "x", "Alive": False, "Resources": {"CPU": 4.0}, "Labels": {}}
        assert alive([record]) == []
        assert alive([{**record, "Alive": True}]) == [node("x", 4)]


class TestTurns:
    def turns(self, wanted: list[TeacherResources], nodes: list[Node], *, can_grow: bool = False) -> list[object]:
        return [dict(turn.max_workers) for turn in take_turns(wanted, nodes, can_grow=can_grow)]

    def test_what_fits_runs_at_the_same_time_and_grows_into_what_is_left(self) -> None:
        assert self.turns([teacher(max_workers=8), teacher(max_workers=2)], [node("a", 4)]) == [{0: 3, 1: 1}]

    def test_what_does_not_fit_beside_the_others_waits_for_its_turn(self) -> None:
        wanted = [teacher(num_cpus=2), teacher(num_cpus=2), teacher(num_cpus=1)]
        assert self.turns(wanted, [node("a", 3)]) == [{0: 1, 2: 1}, {1: 1}]

    def test_workers_are_not_split_over_nodes(self) -> None:
        wanted = [teacher(num_cpus=3), teacher(num_cpus=3)]
        assert self.turns(wanted, [node("a", 4), node("b", 2)]) == [{0: 1}, {1: 1}]

    def test_fractions_of_a_gpu_share_it(self) -> None:
        wanted = [teacher(num_gpus=0.1) for _ in range(10)] + [teacher(num_gpus=0.5)]
        assert self.turns(wanted, [node("a", 16, 1)]) == [dict.fromkeys(range(10), 1), {10: 1}]

    def test_labels_decide_where(self) -> None:
        wanted = [teacher(num_cpus=4, spot="never"), teacher(num_cpus=4, spot="require")]
        assert self.turns(wanted, [SPOT, ON_DEMAND]) == [{0: 1, 1: 1}]
        assert self.turns([wanted[0], wanted[0]], [SPOT, ON_DEMAND]) == [{0: 1}, {1: 1}]

    def test_a_cpu_is_left_for_rendering_in_tasks(self) -> None:
        wanted = [teacher(placement="split", max_workers=4), teacher()]
        assert self.turns(wanted, [node("a", 2)]) == [{0: 1}, {1: 1}]
        assert self.turns(wanted, [node("a", 3)]) == [{0: 1, 1: 1}]

    def test_one_that_no_node_can_run_waits_beside_the_others_on_a_cluster_that_grows(self) -> None:
        wanted = [teacher(num_gpus=8, max_workers=4), teacher(max_workers=3)]
        assert self.turns(wanted, [node("a", 2)], can_grow=True) == [{0: 4, 1: 3}]

    def test_a_smallest_pool_that_is_too_large_even_alone_is_tried_alone(self) -> None:
        wanted = [teacher(min_workers=4, max_workers=4), teacher()]
        assert self.turns(wanted, [node("a", 2)], can_grow=True) == [{0: 4, 1: 1}]

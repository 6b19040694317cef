"""Extraction on a cluster of unlike nodes that come and go, and units that fail on it: nothing is lost or run twice."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kd_ray.config.models import Input
from kd_ray.corpus.packed import CorpusAddress, PackedCorpus, Rows
from kd_ray.engine.session import QUIET_ENVIRONMENT
from kd_ray.errors import ExtractionError, ShardCorrupt
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.extraction.unit import UnitReport
from tests.support.builds import committed
from tests.support.processes import ROOT, ray_folder
from tests.support.tiny_world import extract, pack_images, plan_teacher, plan_views, save_teacher, write_images

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Ray's own, which lives in this process here
]

NUM_VIEWS = 3
OUTPUTS = ("summary", "logits")


@dataclass(frozen=True)
class Poisoned(CorpusAddress):
    """A packed corpus in which reading one row group ends the process, and another cannot be read."""

    deadly: tuple[str, int] = ("", 0)
    corrupt: tuple[str, int] = ("", 0)

    def open(self) -> PackedCorpus:
        opened = super().open()
        read = opened.read_rows

        def read_rows(shard: str, start: int, stop: int, **columns: Any) -> Rows:
            if (shard, start) == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if (shard, start) == self.corrupt:
                raise ShardCorrupt(f"{shard}: page 3 does not match its checksum.")
            return read(shard, start, stop, **columns)

        object.__setattr__(opened, "read_rows", read_rows)
        return opened


@dataclass
class World:
    """A corpus, a cluster of a head and two nodes, and how nodes are added and removed."""

    corpus: PackedCorpus
    folder: Path
    cluster: Any
    nodes: dict[str, Any]

    def add(self, name: str, **labels: str) -> None:
        self.nodes[name] = self.cluster.add_node(num_cpus=1, labels=labels, wait=True)

    def remove(self, name: str) -> None:
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def plan(self, teacher: KnownTeacher, cache: str) -> TargetPlan:
        views = plan_views(self.corpus, self.folder / cache, num_views=NUM_VIEWS, unit_views=1, unit_row_groups=1)
        return plan_teacher(teacher, views, self.corpus, self.folder / cache, outputs=OUTPUTS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    write_images(folder / "images", per_class=30)
    corpus = pack_images(folder / "images", folder / "packed")
    with ExitStack() as stack:
        ray_temporary = stack.enter_context(ray_folder())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in QUIET_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "temp_dir": str(ray_temporary),
                "labels": {"ray.io/market-type": "on-demand"},
            },
        )
        stack.callback(cluster.shutdown)
        found = World(corpus=corpus, folder=folder, cluster=cluster, nodes={})
        found.add("spot", **{"ray.io/market-type": "spot"})
        found.add("big", pool="big")
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        yield found


def with_resources(teacher: KnownTeacher, *, size_px: int = 32, **resources: Any) -> KnownTeacher:
    fields = {**teacher.config.model_dump(), "resources": resources, "input": Input(size_px=(size_px, size_px))}
    return replace(teacher, config=type(teacher.config).model_validate(fields))


def run(plans: Sequence[TargetPlan], *, after: dict[int, Callable[[], None]]) -> tuple[dict[str, int], list[str]]:
    """Forward passes by teacher, and what was told; `after` as many units something happens."""
    from kd_ray.engine.extract import extract_units

    forwards: dict[str, int] = {}
    reports: list[UnitReport] = []
    told: list[str] = []

    def on_report(plan: TargetPlan, report: UnitReport) -> None:
        name = plan.job.teacher_name
        forwards[name] = forwards.get(name, 0) + report.num_forwards
        reports.append(report)
        print("R", name, report.unit_id, flush=True)
        after.get(len(reports), lambda: None)()

    extract_units(
        [each for each in plans if each.missing],
        can_grow=True,
        on_report=on_report,
        tell=lambda s: print("TOLD", s, flush=True),
    )
    return forwards, told


def test_nodes_vanish_and_come_and_a_teacher_is_added_later(world: World, tmp_path: Path) -> None:
    first = with_resources(save_teacher(tmp_path, seed=0, name="first"), max_workers=3, spot="prefer")
    added = with_resources(
        save_teacher(tmp_path, seed=1, name="added"), size_px=24, max_workers=2, labels={"pool": "big"}
    )
    num_views = world.corpus.num_samples("train") * NUM_VIEWS
    plan = world.plan(first, "disturbed")
    assert len(plan.missing) >= 24
    run(
        [plan],
        after={
            4: lambda: world.remove("spot"),
            8: lambda: world.add("late", **{"ray.io/market-type": "spot"}),
        },
    )
    assert not world.plan(first, "disturbed").missing

    forwards, _ = run([world.plan(each, "disturbed") for each in (first, added)], after={})
    assert forwards == {"added": num_views}

    for each in (first, added):
        extract(world.plan(each, "calm"), batch_size=64)
    assert committed(str(world.folder / "disturbed")) == committed(str(world.folder / "calm"))


def test_units_that_fail_are_named_when_all_others_are_done(world: World, tmp_path: Path) -> None:
    teacher = with_resources(save_teacher(tmp_path, seed=2, name="poisoned"), max_workers=2)
    plan = world.plan(teacher, "poisoned")
    spans = list(dict.fromkeys(unit.span for unit in plan.missing))
    deadly, corrupt = spans[1], spans[3]
    only = [unit for unit in plan.missing if unit.span not in (deadly, corrupt) or unit.view_start == 0]
    address = Poisoned(
        uri=plan.job.corpus.uri,
        deadly=(deadly.shard, deadly.group_start),
        corrupt=(corrupt.shard, corrupt.group_start),
    )
    poisoned = replace(plan, job=replace(plan.job, corpus=address), missing=tuple(only))
    with pytest.raises(ExtractionError) as caught:
        run([poisoned], after={})
    failed = {unit.id: unit for unit in only if unit.span in (deadly, corrupt)}
    told = str(caught.value)
    assert told.startswith("2 unit(s) failed: ")
    assert all(unit_id in told for unit_id in failed)
    assert "each of 3 workers that tried it died" in told
    assert "page 3 does not match its checksum." in told
    assert set(world.plan(teacher, "poisoned").missing) & set(only) == set(failed.values())

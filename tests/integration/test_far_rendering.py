"""Both placements give the same bytes: rendered beside the teacher, or part by part elsewhere."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from kd_ray.cache.commits import Commit
from kd_ray.cache.units import Unit
from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import ViewMismatch
from kd_ray.extraction import rendering
from kd_ray.extraction.job import ExtractJob, build_extractor, build_renderer
from kd_ray.extraction.plan import KnownTeacher, TargetPlan, plan_targets
from kd_ray.extraction.rendering import Part, Rendered
from kd_ray.extraction.unit import UnitReport
from kd_ray.views import Proof
from tests.integration.test_added_teacher import another_decoder, change_proofs, neighbours
from tests.support.tiny_world import (
    MIXED_POLICY,
    POLICY,
    TEACHER_SIZE_PX,
    extract,
    files_below,
    plan_teacher,
    plan_views,
    save_teacher,
)

NUM_VIEWS = 3
JPEG = KeptFormat(size_px=(40, 36), codec="jpeg", quality=90)
ROW_BYTES = 2 * TEACHER_SIZE_PX[0] * TEACHER_SIZE_PX[1] * 3  # of units of two views


class Elsewhere:
    """Renders in threads, with a renderer of its own, as a task in another process has."""

    max_tasks = 3

    def __init__(self, job: ExtractJob) -> None:
        self._renderer = build_renderer(job)
        self._pool = ThreadPoolExecutor(self.max_tasks)
        self.parts: list[Part] = []

    def submit(self, unit: Unit, committed: Commit | None, part: Part) -> "Future[tuple[list[Rendered], int]]":
        self.parts.append(part)
        return self._pool.submit(self._renderer.render_part, unit, committed, part)


def extract_far(plan: TargetPlan) -> tuple[list[UnitReport], Elsewhere]:
    far = Elsewhere(plan.job)
    extractor = build_extractor(plan.job, device="cpu", batch_size=7, num_threads=1, far=far)
    return [extractor(unit, attempt="first") for unit in plan.missing], far


@pytest.fixture(params=[3, 100], ids=lambda rows: f"{rows} rows a part")
def rows_per_part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(rendering, "MAX_PART_BYTES", request.param * ROW_BYTES)
    rows: int = request.param
    return rows


@pytest.mark.parametrize("kept", [None, JPEG], ids=["params", "pixels"])
@pytest.mark.parametrize("policy", [POLICY, MIXED_POLICY], ids=lambda policy: policy.name)
def test_a_teacher_and_an_added_one_leave_the_same_files(
    tiny_corpus: PackedCorpus,
    tiny_teacher: KnownTeacher,
    tmp_path: Path,
    policy: Policy,
    kept: KeptFormat | None,
    rows_per_part: int,
) -> None:
    added = save_teacher(tmp_path, seed=1, name="added")
    found = {}
    for placement in ("fused", "split"):
        cache = tmp_path / placement
        for teacher in (tiny_teacher, added):
            views = plan_views(tiny_corpus, cache, num_views=NUM_VIEWS, policy=policy, kept=kept)
            plan = plan_teacher(teacher, views, tiny_corpus, cache, outputs=("summary",))
            assert plan.forwards_missing == NUM_VIEWS * tiny_corpus.num_samples("train")
            if placement == "fused":
                extract(plan)
                continue
            reports, far = extract_far(plan)
            assert sum(report.num_forwards for report in reports) == plan.forwards_missing
            # kept pixels are read where the teacher is
            assert bool(far.parts) == (teacher is tiny_teacher or kept is None)
            assert all(part.stop - part.start <= 2 * rows_per_part for part in far.parts)  # of one view: twice the rows
        found[placement] = files_below(cache)
    assert found["split"] == found["fused"]


@pytest.fixture
def added_after(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> Callable[..., TargetPlan]:
    """The plan of a teacher added to views whose proofs were changed."""

    def plan(change: Callable[[list[Proof]], list[Proof]], *, verify_one_in: int) -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path, num_views=2)
        first = plan_teacher(tiny_teacher, views, tiny_corpus, tmp_path, outputs=("summary",))
        extract(first)
        change_proofs(first, change)
        return plan_targets(
            save_teacher(tmp_path, seed=1, name="added"),
            views,
            corpus=tiny_corpus,
            cache_uri=str(tmp_path),
            outputs=("summary",),
            verify_one_in=verify_one_in,
        )

    return plan


@pytest.mark.parametrize("verify_one_in", [1, 10**9])
def test_other_views_stop_an_added_teacher(added_after, verify_one_in: int) -> None:
    with pytest.raises(ViewMismatch):
        extract_far(added_after(neighbours, verify_one_in=verify_one_in))


@pytest.mark.parametrize("verify_one_in", [1, 10**9])
def test_rounded_views_are_counted_once(added_after, verify_one_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MAX_PART_BYTES", 3 * ROW_BYTES)
    reports, far = extract_far(added_after(another_decoder, verify_one_in=verify_one_in))
    assert len(far.parts) > 2 * len(reports)
    for report in reports:
        assert report.num_rounded == (report.num_views if verify_one_in == 1 else 1)

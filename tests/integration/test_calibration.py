"""int8 outputs are calibrated from the first views of a view set, whichever unit a worker starts with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.calibration import Calibration, calibrating_unit
from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Unit
from kd_ray.config.outputs import Outputs
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt
from kd_ray.extraction.job import build_extractor
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from tests.integration.test_far_rendering import Elsewhere
from tests.support.tiny_world import ROW_GROUP_SIZE, extract, plan_teacher, plan_views

NUM_VIEWS, BLOCK = 6, 5
OUTPUTS = ("summary", "logits")
CALIBRATING = 4 * ROW_GROUP_SIZE


@pytest.fixture
def plan_for(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> Callable[..., TargetPlan]:
    """Six views in blocks of five and one."""
    outputs = Outputs.model_validate({"summary": {"codec": "int8"}, "logits": {"codec": "float32"}})
    teacher = replace(tiny_teacher, config=tiny_teacher.config.model_copy(update={"outputs": outputs}))

    def plan(cache: str = "cache", *, num_views: int = NUM_VIEWS) -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path / cache, num_views=num_views, unit_views=BLOCK)
        return plan_teacher(teacher, views, tiny_corpus, tmp_path / cache, outputs=OUTPUTS)

    return plan


def calibration_file(plan: TargetPlan) -> Path:
    (path,) = Path(plan.job.cache_uri).rglob("calibration.json")
    return path


def run_units(plan: TargetPlan, units: tuple[Unit, ...]) -> list[int]:
    extractor = build_extractor(plan.job, device="cpu", batch_size=32, num_threads=1)
    return [extractor(unit, attempt="a").num_forwards for unit in units]


def test_workers_that_start_with_different_units_calibrate_alike(plan_for: Callable[..., TargetPlan]) -> None:
    one, other = plan_for("one"), plan_for("other")
    run_units(one, one.missing[:1])
    run_units(other, other.missing[-1:])
    assert one.missing[0] != other.missing[-1]
    assert calibration_file(one).read_bytes() == calibration_file(other).read_bytes()


def test_views_rendered_elsewhere_calibrate_alike(plan_for: Callable[..., TargetPlan]) -> None:
    near, far = plan_for("near"), plan_for("far")
    run_units(near, near.missing[:1])
    elsewhere = Elsewhere(far.job)
    extractor = build_extractor(far.job, device="cpu", batch_size=32, num_threads=1, far=elsewhere)
    extractor(far.missing[-1], attempt="a")
    assert elsewhere.parts[0].group == 0
    assert calibration_file(near).read_bytes() == calibration_file(far).read_bytes()


def test_it_is_of_the_first_four_views_of_the_first_row_group(
    plan_for: Callable[..., TargetPlan], tiny_corpus: PackedCorpus
) -> None:
    """Compared with what is read of those views, which int8 has rounded."""
    plan = plan_for()
    first = plan.view_set.units[0]
    calibrating = calibrating_unit(first)
    assert (calibrating.num_views, calibrating.span.group_stop) == (4, 1)
    extract(plan)
    job = plan.job
    coded = open_output(job.cache_uri, job.target_set, job.outputs["summary"], create=False)
    ids = tiny_corpus.read_rows(first.span.shard, first.span.group_start, first.span.group_stop, columns=()).sample_ids
    found = coded.calibration()
    assert found is not None
    values = [coded.read(coded.collection.commits()[first], view_index=view, sample_ids=ids) for view in range(4)]
    expected = Calibration.of(np.stack(values)[:, :ROW_GROUP_SIZE])
    scale = expected.deviation_D.mean()
    np.testing.assert_allclose(found.mean_D, expected.mean_D, rtol=0, atol=1e-2 * scale)
    np.testing.assert_allclose(found.deviation_D, expected.deviation_D, rtol=2e-2, atol=1e-2 * scale)


def test_its_forward_passes_are_planned_and_counted_once(plan_for: Callable[..., TargetPlan]) -> None:
    plan = plan_for()
    num_views = plan.forwards_total
    assert plan.forwards_missing == num_views + CALIBRATING
    counted = run_units(plan, plan.missing[-1:] + plan.missing[:-1])
    assert sum(counted) == plan.forwards_missing
    assert counted[0] == plan.view_set.views_in(plan.missing[-1:]) + CALIBRATING
    grown = plan_for(num_views=NUM_VIEWS + 1)
    assert 0 < grown.forwards_missing == sum(report.num_forwards for report in extract(grown, attempt="more"))
    assert grown.forwards_missing + num_views == grown.forwards_total


def test_it_is_not_made_again_for_units_that_need_the_lost_one(plan_for: Callable[..., TargetPlan]) -> None:
    plan = plan_for()
    run_units(plan, plan.missing[:1])
    path = calibration_file(plan)
    path.unlink()
    with pytest.raises(CacheCorrupt, match=f"{path}: is missing. Restore it"):
        run_units(plan, plan.missing[1:2])

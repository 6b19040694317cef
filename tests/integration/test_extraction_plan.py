"""The plan counts what is missing: everything at first, only what is new when views, samples or outputs are added."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kd_ray.config.views import CenterCrop, Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import ExtractionError, RecipeError
from kd_ray.extraction.plan import KnownTeacher, TargetPlan, bytes_per_view
from tests.support.tiny_world import (
    extract,
    files_below,
    pack_images,
    plan_teacher,
    plan_views,
    save_teacher,
    write_images,
)


@pytest.fixture
def plan_for(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> Callable[..., TargetPlan]:
    def plan(
        *,
        num_views: int = 2,
        outputs: tuple[str, ...] = ("summary",),
        corpus: PackedCorpus = tiny_corpus,
        teacher: KnownTeacher = tiny_teacher,
        unit_views: int | None = 2,
        **views,
    ) -> TargetPlan:
        view_set = plan_views(
            corpus, tmp_path / "cache", num_views=num_views, unit_views=unit_views, unit_row_groups=4, **views
        )
        return plan_teacher(teacher, view_set, corpus, tmp_path / "cache", outputs=outputs)

    return plan


def test_planning_writes_nothing(plan_for, tmp_path) -> None:
    plan_for()
    assert files_below(tmp_path) == {}


def test_at_first_everything_is_missing(plan_for, tiny_corpus) -> None:
    plan = plan_for(num_views=3)
    num_samples = tiny_corpus.num_samples("train")
    assert plan.missing == plan.view_set.units
    assert plan.forwards_missing == plan.forwards_total == 3 * num_samples
    assert plan.bytes_per_view == {"summary": 64 * 4}
    assert plan.committed_bytes() == 0


def test_bytes_are_those_of_the_shapes_and_codecs(tiny_teacher) -> None:
    assert bytes_per_view(tiny_teacher.config, tiny_teacher.shapes) == {
        "summary": 64 * 4,
        "spatial": 8 * 8 * 64 * 4,
        "logits": 3 * 4,
    }


def test_committed_bytes_are_near_those_planned(plan_for, tmp_path) -> None:
    plan = plan_for()
    extract(plan)
    stored = sum(len(data) for name, data in files_below(tmp_path / "cache" / "targets").items() if "/units/" in name)
    assert plan.committed_bytes() == stored
    assert stored > plan.forwards_total * sum(plan.bytes_per_view.values())


def test_what_is_committed_is_not_missing(plan_for) -> None:
    plan = plan_for()
    half = len(plan.missing) // 2
    extract(replace(plan, missing=plan.missing[:half]))
    rest = plan_for()
    assert rest.missing == plan.missing[half:]
    assert rest.forwards_missing == plan.view_set.views_in(plan.missing[half:])


def test_added_views_are_all_that_is_computed(plan_for, tiny_corpus) -> None:
    extract(plan_for(num_views=2))
    more = plan_for(num_views=5)
    assert {(unit.view_start, unit.view_stop) for unit in more.missing} == {(2, 4), (4, 5)}
    assert more.forwards_missing == 3 * tiny_corpus.num_samples("train")
    assert sum(report.num_forwards for report in extract(more)) == more.forwards_missing
    assert plan_for(num_views=5).missing == ()


def test_an_added_output_needs_the_teacher_again_but_leaves_the_others_alone(plan_for, tiny_corpus, tmp_path) -> None:
    extract(plan_for(outputs=("summary",)))
    before = files_below(tmp_path / "cache")
    both = plan_for(outputs=("summary", "logits"))
    assert both.forwards_missing == 2 * tiny_corpus.num_samples("train")
    reports = extract(both, attempt="second")
    assert {report.outputs_written for report in reports} == {1}
    after = files_below(tmp_path / "cache")
    assert {name: after[name] for name in before} == before
    assert all("/logits-" in name for name in after.keys() - before.keys())
    assert plan_for(outputs=("summary", "logits")).missing == ()


def test_fewer_views_than_stored_need_nothing(plan_for) -> None:
    extract(plan_for(num_views=4))
    assert plan_for(num_views=1).missing == ()


def test_the_first_grid_stays(plan_for) -> None:
    extract(plan_for(num_views=2, unit_views=2))
    later = plan_for(num_views=4, unit_views=None)
    assert {unit.num_views for unit in later.view_set.units} == {2}


def test_another_grid_than_the_stored_one_is_refused(plan_for) -> None:
    extract(plan_for(num_views=2, unit_views=2))
    with pytest.raises(RecipeError, match=r"cache\.unit_views: got 1, .* was cut with 2"):
        plan_for(num_views=4, unit_views=1)


def test_units_too_large_for_a_worker_are_refused(plan_for, tiny_teacher) -> None:
    wide = replace(tiny_teacher, shapes={**tiny_teacher.shapes, "summary": (3_000_000,)})
    with pytest.raises(ExtractionError, match="the views were cut for narrower outputs"):
        plan_for(teacher=wide)


def test_what_a_recipe_calls_a_teacher_does_not_make_it_another(plan_for, tiny_teacher) -> None:
    extract(plan_for())
    renamed = plan_for(teacher=replace(tiny_teacher, name="dino"))
    assert renamed.forwards_missing == 0
    assert renamed.missing == ()


def test_another_teacher_shares_the_views(plan_for, tiny_corpus, tmp_path) -> None:
    extract(plan_for())
    views = files_below(tmp_path / "cache" / "views")
    other = plan_for(teacher=save_teacher(tmp_path, seed=1))
    assert other.forwards_missing == 2 * tiny_corpus.num_samples("train")
    extract(other)
    assert files_below(tmp_path / "cache" / "views") == views
    assert plan_for().missing == ()


def test_another_policy_is_another_view_set(plan_for) -> None:
    extract(plan_for())
    other = plan_for(policy=Policy(name="tiny", operations=(CenterCrop(kind="center_crop"),)))
    assert other.forwards_missing == other.forwards_total


def test_added_samples_are_all_that_is_computed(plan_for, tmp_path) -> None:
    write_images(tmp_path / "source", per_class=12)
    first = pack_images(tmp_path / "source", tmp_path / "packed")
    extract(plan_for(corpus=first))
    write_images(tmp_path / "source", per_class=20, seed=1)
    grown = pack_images(tmp_path / "source", tmp_path / "packed")
    more = plan_for(corpus=grown)
    num_new = grown.num_samples("train") - first.num_samples("train")
    assert num_new > 30
    assert more.forwards_missing == 2 * num_new
    assert {unit.span.shard for unit in more.missing}.isdisjoint(shard.name for shard in first.shards("train"))
    assert sum(report.num_forwards for report in extract(more)) == 2 * num_new
    assert plan_for(corpus=grown).missing == ()

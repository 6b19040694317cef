"""What the stages tell in their lines."""

from pathlib import Path

from kd_ray.config.load import load_recipe
from pipelines.stages.extract import describe
from pipelines.stages.partial import describe_missing, missing_counts
from pipelines.stages.plan import enlarged
from tests.support.recipes import write


def test_extraction_warns_of_views_that_differ_by_rounding() -> None:
    assert describe(forwards=1200, num_bytes=5, rounded=0).startswith("1,200 teacher forwards, ")
    assert "WARNING" not in describe(forwards=1200, num_bytes=5, rounded=0)
    assert "WARNING: of the compared views 3 differ from what is stored by rounding" in describe(
        forwards=1200, num_bytes=5, rounded=3
    )


SNAPSHOT = {"num_units": 3, "num_views": 4_000, "num_samples": 2_000}


def test_what_is_missing_is_told_and_counted_as_the_policy_has_it() -> None:
    skip, live = ({**SNAPSHOT, "policy": policy} for policy in ("skip", "live"))
    assert describe_missing(skip).endswith("skip: 3 units are missing, so 2,000 samples are left out")
    assert describe_missing(live).endswith("so targets of 4,000 views are computed in the training loop")
    assert missing_counts({"snapshot": skip}) == {"num_missing_units": 3, "num_left_out_samples": 2_000}
    assert missing_counts({"snapshot": live}) == {"num_missing_units": 3, "num_live_views": 4_000}
    assert missing_counts({"snapshot": None}) == missing_counts({}) == {}


def test_every_model_that_takes_more_pixels_than_are_kept_is_named(tmp_path: Path) -> None:
    kept = ["views.keep=pixels", "views.pixels_size_px=[32,32]", "student.name=small"]
    path = write(tmp_path)
    assert enlarged(load_recipe(path)) == []
    assert enlarged(load_recipe(path, kept)) == []
    (teacher,) = enlarged(load_recipe(path, [*kept, "teacher.input.size_px=[32,40]"]))
    assert teacher.startswith("WARNING: teacher teacher takes 32×40 px, more than is kept of views (32×32)")
    (student,) = enlarged(load_recipe(path, [*kept, "student.input.size_px=[40,32]"]))
    assert student.startswith("WARNING: student small takes 40×32 px")

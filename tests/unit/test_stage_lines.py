"""What the stages tell in their lines."""

from pathlib import Path

from kd_ray.config.load import load_recipe
from pipelines.stages.extract import describe
from pipelines.stages.plan import enlarged
from tests.support.recipes import write


def test_extraction_warns_of_views_that_differ_by_rounding() -> None:
    assert describe(forwards=1200, num_bytes=5, rounded=0).startswith("1,200 teacher forwards, ")
    assert "WARNING" not in describe(forwards=1200, num_bytes=5, rounded=0)
    assert "WARNING: of the compared views 3 differ from what is stored by rounding" in describe(
        forwards=1200, num_bytes=5, rounded=3
    )


def test_every_model_that_takes_more_pixels_than_are_kept_is_named(tmp_path: Path) -> None:
    kept = ["views.keep=pixels", "views.pixels_size_px=[32,32]", "student.name=small"]
    path = write(tmp_path)
    assert enlarged(load_recipe(path)) == []
    assert enlarged(load_recipe(path, kept)) == []
    (teacher,) = enlarged(load_recipe(path, [*kept, "teacher.input.size_px=[32,40]"]))
    assert teacher.startswith("WARNING: teacher teacher takes 32×40 px, more than is kept of views (32×32)")
    (student,) = enlarged(load_recipe(path, [*kept, "student.input.size_px=[40,32]"]))
    assert student.startswith("WARNING: student small takes 40×32 px")

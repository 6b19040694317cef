"""A contact sheet: samples by views, each view at the very pixels that every teacher and the student get.

H, W: height and width in pixels; 3: red, green, blue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.replay import Replay
from kd_ray.config.models import Input
from kd_ray.config.recipe import Recipe
from kd_ray.config.views import Interpolation, Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.evaluate.describe_view import describe
from kd_ray.evaluate.sheet_samples import Group, SheetSample
from kd_ray.evaluate.whole_image import NumberedBox, whole_with_boxes
from kd_ray.views import View, ViewParams, box_px
from kd_ray.views.params import Crop

Pixels = NDArray[np.uint8]

MIN_VIEW_PX = 128  # smaller views are enlarged


@dataclass(frozen=True, slots=True, kw_only=True)
class Eye:
    """All models that get the same pixels of a view; size is (height, width)."""

    names: tuple[str, ...]
    size_px: tuple[int, int]
    interpolation: Interpolation

    @property
    def title(self) -> str:
        """Who sees it, and how."""
        height, width = self.size_px
        return f"{', '.join(self.names)}: {height}×{width} px, {self.interpolation}"

    @property
    def legend(self) -> str:
        """The title, and how it is shown here."""
        return self.title if self.factor == 1 else f"{self.title}; each pixel is shown as {self.factor}×{self.factor}"

    @property
    def factor(self) -> int:
        """How many times as large, in whole pixels, its views are shown."""
        return max(MIN_VIEW_PX // max(self.size_px), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenView:
    """One view, with the pixels [h, w, 3] that each eye gets."""

    view_index: int
    params: ViewParams
    pixels: tuple[Pixels, ...]

    @property
    def words(self) -> str:
        """Its params in short."""
        return describe(self.params)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One sample: the whole image, small, with the boxes of its views, and the views."""

    name: str
    whole_HW3: Pixels
    views: tuple[SeenView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is shown; `notes` are sentences."""

    title: str
    notes: tuple[str, ...]
    eyes: tuple[Eye, ...]
    rows: tuple[SheetRow, ...]


def eyes_of(recipe: Recipe) -> tuple[Eye, ...]:
    """Teachers and student, those with the same size and interpolation together: normalisation changes no view."""
    teachers = {
        name if name == "teacher" else f"{name} (teacher)": each.input for name, each in recipe.all_teachers().items()
    }
    student = recipe.student.name if recipe.student.name == "student" else f"{recipe.student.name} (student)"
    alike: dict[tuple[tuple[int, int], Interpolation], list[str]] = {}
    inputs: list[tuple[str, Input]] = [*teachers.items(), (student, recipe.student.input)]
    for name, input in inputs:
        alike.setdefault((input.size_px, input.interpolation), []).append(name)
    return tuple(
        Eye(names=tuple(names), size_px=size_px, interpolation=interpolation)
        for (size_px, interpolation), names in alike.items()
    )


def contact_sheet(
    group: Group,
    *,
    title: str,
    notes: Sequence[str],
    policy: Policy,
    view_seed: int,
    num_views: int,
    eyes: tuple[Eye, ...],
    num_samples: int,
    report: Callable[[int], None],
) -> Sheet:
    """The first `num_views` views of the first `num_samples` of the group; partners of mixed views are any of it.

    `report` is told how many samples are done.

    Raises:
        BadImage: an image cannot be decoded.
    """
    replay = Replay(group.as_rows(), policy=policy, seed=view_seed)
    rows = []
    for place, sample in enumerate(group.samples[:num_samples]):
        rows.append(_row(sample, replay.views(place, range(num_views)), eyes))
        report(len(rows))
    return Sheet(title=title, notes=tuple(notes), eyes=eyes, rows=tuple(rows))


def _row(sample: SheetSample, views: Sequence[View], eyes: tuple[Eye, ...]) -> SheetRow:
    seen = tuple(
        SeenView(
            view_index=index,
            params=view.params,
            pixels=tuple(view.render(eye.size_px, eye.interpolation) for eye in eyes),
        )
        for index, view in enumerate(views)
    )
    boxes = [box for view in seen for box in _boxes(view, eyes, image_size_px=sample.size_px)]
    return SheetRow(name=sample.name, whole_HW3=whole_with_boxes(decode(sample.image), boxes), views=seen)


def _boxes(view: SeenView, eyes: tuple[Eye, ...], *, image_size_px: tuple[int, int]) -> list[NumberedBox]:
    """The part of the image that the view is of: one box, or one for each shape of eye where it depends on that.

    Of a box that reaches beyond the image, what lies in it.
    """
    crop = view.params[0]
    assert isinstance(crop, Crop), crop
    found = {box_px(crop, image_size_px=image_size_px, size_px=eye.size_px) for eye in eyes}
    height, width = image_size_px
    return [
        NumberedBox(
            number=view.view_index,
            fractions=(
                max(left / width, 0.0),
                max(top / height, 0.0),
                min(right / width, 1.0),
                min(bottom / height, 1.0),
            ),
        )
        for left, top, right, bottom in sorted(found)
    ]

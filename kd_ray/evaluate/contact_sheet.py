"""A contact sheet: samples by views, each view at the very pixels that every teacher and the student get.

H, W: height and width in pixels; 3: red, green, blue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.replay import Replay
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.recipe import Recipe
from kd_ray.config.views import NAMELESS, Interpolation, Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.evaluate.describe_view import describe
from kd_ray.evaluate.sheet_samples import Group, SheetSample
from kd_ray.evaluate.whole_image import NumberedBox, whole_with_boxes
from kd_ray.views import AnyView, View, ViewParams, box_px, keep_view
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
    """One view, with the pixels [h, w, 3] that each eye of its kind gets."""

    view_index: int
    params: ViewParams
    pixels: tuple[Pixels, ...]

    @property
    def words(self) -> str:
        """Its params in short."""
        return describe(self.params)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetKind:
    """One kind of views and who sees them; the only kind of a policy has no name."""

    name: str
    policy: Policy
    num_views: int
    eyes: tuple[Eye, ...]
    kept: KeptFormat | None = None

    @property
    def shapes(self) -> set[tuple[int, int]]:
        """The sizes at which views are cut from the image."""
        return {eye.size_px for eye in self.eyes} if self.kept is None else {self.kept.size_px}

    @property
    def legends(self) -> tuple[str, ...]:
        """A line for each eye."""
        return tuple(f"{self.name}: {eye.legend}" if self.name else eye.legend for eye in self.eyes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One sample and one kind of its views: the whole image, small, with the boxes of the views, and the views."""

    name: str
    kind: SheetKind
    whole_HW3: Pixels
    views: tuple[SeenView, ...]

    @property
    def title(self) -> str:
        """Whose views these are, and of which kind."""
        return f"{self.name}: {self.kind.name}" if self.kind.name else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is shown, for each sample a row of every kind; `notes` are sentences."""

    title: str
    notes: tuple[str, ...]
    kinds: tuple[SheetKind, ...]
    rows: tuple[SheetRow, ...]


def sheet_kinds(recipe: Recipe, *, num_draws: int) -> tuple[SheetKind, ...]:
    """The kinds of a recipe's views, with those that `num_draws` draws of a sample have."""
    policy = recipe.views.policy
    return tuple(
        SheetKind(
            name=kind,
            policy=policy.of_kind(kind),
            num_views=num_draws * policy.num_crops(kind),
            eyes=eyes_of(recipe, kind),
            kept=recipe.views.kept(kind),
        )
        for kind in policy.kind_names
    )


def eyes_of(recipe: Recipe, kind: str = NAMELESS) -> tuple[Eye, ...]:
    """Teachers and student, those with the same size and interpolation together: normalisation changes no view."""
    teachers = {
        name if name == "teacher" else f"{name} (teacher)": each.input for name, each in recipe.all_teachers().items()
    }
    student = recipe.student.name if recipe.student.name == "student" else f"{recipe.student.name} (student)"
    alike: dict[tuple[tuple[int, int], Interpolation], list[str]] = {}
    inputs: list[tuple[str, Input]] = [*teachers.items(), (student, recipe.student.input)]
    for name, own in inputs:
        input = own.of_kind(recipe.views.policy, kind)
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
    kinds: tuple[SheetKind, ...],
    view_seed: int,
    num_samples: int,
    report: Callable[[int], None],
) -> Sheet:
    """The first views of each kind of the first `num_samples` of the group; partners of mixed views are any of it.

    Where pixels are kept, each view has gone through their codec. `report` is told how many samples are done.

    Raises:
        BadImage: an image cannot be decoded.
    """
    replays = [(kind, Replay(group.as_rows(), policy=kind.policy, seed=view_seed)) for kind in kinds]
    rows = []
    for place, sample in enumerate(group.samples[:num_samples]):
        rows += [
            _row(sample, kind, _seen(replay.views(place, range(kind.num_views)), kind)) for kind, replay in replays
        ]
        report(place + 1)
    return Sheet(title=title, notes=tuple(notes), kinds=kinds, rows=tuple(rows))


def _seen(views: Sequence[View], kind: SheetKind) -> Sequence[AnyView]:
    return views if kind.kept is None else [keep_view(view, kind.kept)[1] for view in views]


def _row(sample: SheetSample, kind: SheetKind, views: Sequence[AnyView]) -> SheetRow:
    seen = tuple(
        SeenView(
            view_index=index,
            params=view.params,
            pixels=tuple(view.render(eye.size_px, eye.interpolation) for eye in kind.eyes),
        )
        for index, view in enumerate(views)
    )
    boxes = [box for view in seen for box in _boxes(view, kind.shapes, image_size_px=sample.size_px)]
    return SheetRow(name=sample.name, kind=kind, whole_HW3=whole_with_boxes(decode(sample.image), boxes), views=seen)


def _boxes(view: SeenView, shapes: set[tuple[int, int]], *, image_size_px: tuple[int, int]) -> list[NumberedBox]:
    """The part of the image that the view is of: one box, or one for each shape of view where it depends on that.

    Of a box that reaches beyond the image, what lies in it.
    """
    crop = view.params[0]
    assert isinstance(crop, Crop), crop
    found = {box_px(crop, image_size_px=image_size_px, size_px=size_px) for size_px in shapes}
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

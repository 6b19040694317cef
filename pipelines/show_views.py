"""The views of a recipe to look at, before or after anything is packed: no Ray, no weights, only the recipe's sizes."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from kd_ray.config.recipe import Recipe
from kd_ray.errors import RecipeError
from kd_ray.evaluate.contact_sheet import Sheet, contact_sheet, eyes_of
from kd_ray.evaluate.sheet_html import sheet_html
from kd_ray.evaluate.sheet_png import sheet_png
from kd_ray.evaluate.sheet_samples import Group, training_group
from kd_ray.storage import is_remote, join, open_storage
from kd_ray.telemetry.progress import meter
from kd_ray.telemetry.units import human_bytes

DEFAULT_SAMPLES = 6
DEFAULT_MAX_VIEWS = 8
MAX_VIEWS_IN_ALL = 256  # of 224x224 pixels and for one eye, a page of 35 MB
PNG_NAME, HTML_NAME = "views.png", "views.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRequest:
    """What to show and where to write it; None is the recipe's own number, or a folder beside its outputs."""

    num_samples: int = DEFAULT_SAMPLES
    num_views: int | None = None
    out: str | None = None


def show_views(recipe: Recipe, request: SheetRequest, *, console: Console) -> Sheet:
    """Write the contact sheet of a recipe's views as PNG and HTML, and print where.

    Raises:
        RecipeError: fewer samples or views than one, or more of them together than a page can hold.
        CorpusError, StorageError: no image can be read, or nothing written.
    """
    num_views = usual_num_views(recipe) if request.num_views is None else request.num_views
    _check(request.num_samples, num_views)
    out = request.out or (join(recipe.out, "views") if not is_remote(recipe.out) else "views")
    with meter(console, "reading", unit="images") as progress:
        group = training_group(
            recipe.corpus,
            num_samples=request.num_samples,
            report=lambda done: progress.update(done, total=request.num_samples),
            with_masks=recipe.views.policy.reads_masks,
        )
    num_samples = min(request.num_samples, len(group.samples))
    with meter(console, "rendering", unit="views") as progress:
        sheet = sheet_of(
            recipe,
            group,
            num_samples=num_samples,
            num_views=num_views,
            report=lambda done: progress.update(done * num_views, total=num_samples * num_views),
        )
    storage = open_storage(out)
    written = {PNG_NAME: sheet_png(sheet), HTML_NAME: sheet_html(sheet).encode()}
    for name, data in written.items():
        storage.write(name, data)
    _tell(console, sheet, {join(out, name): len(data) for name, data in written.items()})
    return sheet


def sheet_of(recipe: Recipe, group: Group, *, num_samples: int, num_views: int, report: Callable[[int], None]) -> Sheet:
    """The sheet of a recipe's views of a group; `report` is told how many samples are done."""
    return contact_sheet(
        group,
        title=f"Views of {recipe.name}",
        notes=_notes(recipe, group, num_views=num_views),
        policy=recipe.views.policy,
        view_seed=recipe.views.seed,
        num_views=num_views,
        eyes=eyes_of(recipe),
        num_samples=num_samples,
        report=report,
    )


def usual_num_views(recipe: Recipe) -> int:
    """How many views are shown where nobody says: all, if they are few."""
    return min(recipe.views.count, DEFAULT_MAX_VIEWS)


def _notes(recipe: Recipe, group: Group, *, num_views: int) -> tuple[str, ...]:
    """Which views these are, where the images come from, and what will be otherwise in the run."""
    views = recipe.views
    told = [
        f"Policy {views.policy.name}, seed {views.seed}: views 0 to {num_views - 1} of {views.count}.",
        group.origin,
    ]
    if num_views > views.count:
        told.append(f"No teacher sees those from {views.count} on: views.count is {views.count}.")
    if views.policy.mix is not None:
        told.append(f"A view is mixed with another of {len(group.samples)} images, {_what_they_are(group)}.")
    return tuple(told)


def _what_they_are(group: Group) -> str:
    if group.is_row_group:
        return "those of the row group"
    return "the ones read here: once packed, the partners are of the row group, and others"


def _check(num_samples: int, num_views: int) -> None:
    for option, value in (("--samples", num_samples), ("--views", num_views)):
        if value < 1:
            raise RecipeError(f"{option}: got {value}, expected at least 1. Leave it out for the usual number.")
    if num_samples * num_views > MAX_VIEWS_IN_ALL:
        raise RecipeError(
            f"--samples {num_samples} with {num_views} views each are {num_samples * num_views:,} views, expected at "
            f"most {MAX_VIEWS_IN_ALL} on one page. Give fewer --samples or --views."
        )


def _tell(console: Console, sheet: Sheet, written: dict[str, int]) -> None:
    num_views = len(sheet.rows[0].views)
    console.print(f"{len(sheet.rows)} samples by {num_views} views, as seen by", highlight=False)
    for eye in sheet.eyes:
        console.print(f"  {eye.title}", highlight=False, markup=False)
    for note in sheet.notes[1:]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for where, num_bytes in written.items():
        console.print(f"wrote {where} ({human_bytes(num_bytes)})", highlight=False, markup=False, soft_wrap=True)

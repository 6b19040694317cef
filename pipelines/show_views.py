"""The views of a recipe to look at, before or after anything is packed: no Ray, no weights, only the recipe's sizes."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from kd_ray.config.recipe import Recipe
from kd_ray.errors import RecipeError
from kd_ray.evaluate.contact_sheet import Sheet, contact_sheet, sheet_kinds
from kd_ray.evaluate.sheet_html import sheet_html
from kd_ray.evaluate.sheet_png import sheet_png
from kd_ray.evaluate.sheet_samples import Group, training_group
from kd_ray.storage import is_remote, join, open_storage
from kd_ray.telemetry.progress import meter
from kd_ray.telemetry.units import counted, human_bytes

DEFAULT_SAMPLES = 6
DEFAULT_MAX_VIEWS = 8
NUM_PARTNERS = 8  # images that are read for mixing, where fewer are shown
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
    num_draws = usual_num_draws(recipe) if request.num_views is None else request.num_views
    num_views = num_draws * _views_per_draw(recipe)
    _check(request.num_samples, num_draws, num_views=num_views)
    out = request.out or (join(recipe.out, "views") if not is_remote(recipe.out) else "views")
    num_read = _num_read(recipe, request.num_samples)
    with meter(console, "reading", unit="images") as progress:
        group = training_group(
            recipe.corpus,
            num_samples=num_read,
            report=lambda done: progress.update(done, total=num_read),
            with_masks=recipe.views.policy.reads_masks,
        )
    num_samples = min(request.num_samples, len(group.samples))
    with meter(console, "rendering", unit="views") as progress:
        sheet = sheet_of(
            recipe,
            group,
            num_samples=num_samples,
            num_draws=num_draws,
            report=lambda done: progress.update(done * num_views, total=num_samples * num_views),
        )
    storage = open_storage(out)
    written = {PNG_NAME: sheet_png(sheet), HTML_NAME: sheet_html(sheet).encode()}
    for name, data in written.items():
        storage.write(name, data)
    _tell(console, sheet, {join(out, name): len(data) for name, data in written.items()})
    return sheet


def sheet_of(recipe: Recipe, group: Group, *, num_samples: int, num_draws: int, report: Callable[[int], None]) -> Sheet:
    """The sheet of a recipe's views of a group, of each sample those of `num_draws` draws; `report` is told how many
    samples are done.
    """
    return contact_sheet(
        group,
        title=f"Views of {recipe.name}",
        notes=_notes(recipe, group, num_draws=num_draws),
        kinds=sheet_kinds(recipe, num_draws=num_draws),
        view_seed=recipe.views.seed,
        num_samples=num_samples,
        report=report,
    )


def _num_read(recipe: Recipe, num_samples: int) -> int:
    """How many images are looked at where nothing is packed: more than are shown where they need partners."""
    if recipe.views.policy.mix is None:
        return num_samples
    return max(num_samples, min(recipe.corpus.row_group_size, NUM_PARTNERS))


def usual_num_draws(recipe: Recipe) -> int:
    """How many draws of a sample are shown where nobody says: all, if their views are few."""
    return min(recipe.views.count, max(DEFAULT_MAX_VIEWS // _views_per_draw(recipe), 1))


def _views_per_draw(recipe: Recipe) -> int:
    policy = recipe.views.policy
    return sum(policy.num_crops(kind) for kind in policy.kind_names)


def _notes(recipe: Recipe, group: Group, *, num_draws: int) -> tuple[str, ...]:
    """Which views these are, where the images come from, and what will be otherwise in the run."""
    views, policy = recipe.views, recipe.views.policy
    shown = []
    for kind in policy.kind_names:
        last = num_draws * policy.num_crops(kind) - 1
        which = f"views 0 to {last}" if last else "view 0"
        shown.append(f"{f'{kind} ' if kind else ''}{which} of {views.num_views(kind)}")
    told = [f"Policy {policy.name}, seed {views.seed}: {', '.join(shown)}.", group.origin]
    kept = dict.fromkeys(filter(None, (views.kept(kind) for kind in policy.kind_names)))
    if kept:
        told.append(f"Pixels are those that are kept: {', '.join(each.title for each in kept)}.")
    if policy.repeats > 1:
        told.append(f"In training, {policy.repeats} draws of a sample come in the same batch.")
    if num_draws > views.count:
        unseen = f"draw {views.count} and later ones" if policy.kinds else f"those from {views.count} on"
        told.append(f"No teacher sees {unseen}: views.count is {views.count}.")
    if views.policy.mix is not None:
        told.append(_partners(group))
    return tuple(told)


def _partners(group: Group) -> str:
    if len(group.samples) == 1:
        return "Views are not mixed: there is one image."
    return f"A view is mixed with another of {len(group.samples)} images, {_what_they_are(group)}."


def _what_they_are(group: Group) -> str:
    if group.is_row_group:
        return "those of the row group"
    return "the ones read here: once packed, the partners are of the row group, and others"


def _check(num_samples: int, num_draws: int, *, num_views: int) -> None:
    for option, value in (("--samples", num_samples), ("--views", num_draws)):
        if value < 1:
            raise RecipeError(f"{option}: got {value}, expected at least 1. Leave it out for the usual number.")
    if num_samples * num_views > MAX_VIEWS_IN_ALL:
        raise RecipeError(
            f"--samples {num_samples} with {num_views} views each are {num_samples * num_views:,} views, expected at "
            f"most {MAX_VIEWS_IN_ALL} on one page. Give fewer --samples or --views."
        )


def _tell(console: Console, sheet: Sheet, written: dict[str, int]) -> None:
    num_views = sum(kind.num_views for kind in sheet.kinds)
    num_samples = len(sheet.rows) // len(sheet.kinds)
    shown = f"{counted(num_samples, 'sample')} by {counted(num_views, 'view')}"
    console.print(f"{shown}, as seen by", highlight=False)
    for kind in sheet.kinds:
        for eye in kind.eyes:
            console.print(f"  {kind.name}{': ' if kind.name else ''}{eye.title}", highlight=False, markup=False)
    for note in sheet.notes[1:]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for where, num_bytes in written.items():
        console.print(f"wrote {where} ({human_bytes(num_bytes)})", highlight=False, markup=False, soft_wrap=True)

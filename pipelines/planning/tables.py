"""A plan as people read it."""

from math import isinf

from rich.console import Console
from rich.table import Table

from kd_ray.extraction.cost import BreakEven
from kd_ray.telemetry.units import human_bytes, human_seconds
from pipelines.planning.estimate import Estimate

UNKNOWN = "?"


def show_estimate(made: Estimate, console: Console) -> None:
    """Targets, accelerators, alternatives, and when the cache pays for itself."""
    console.print(_targets(made))
    if made.accelerators:
        console.print(_accelerators(made))
    console.print(_alternatives(made))
    for line in lines(made):
        console.print(line, highlight=False, soft_wrap=True)


def lines(made: Estimate) -> list[str]:
    """What is told below the tables."""
    told = []
    if made.timed is not None:
        rate = made.timed.storage
        told.append(
            f"storage of the cache: writes {human_bytes(rate.write_bytes_per_s)}/s, reads "
            f"{human_bytes(rate.read_bytes_per_s)}/s"
        )
    if made.student_epoch_s is not None:
        told.append(f"an epoch of a student from the cache: {human_seconds(made.student_epoch_s)}")
    if made.break_even is not None:
        told.append(_pays(made.break_even))
    elif made.recipe.train.targets == "cached":
        told.append(
            f"counting forward passes alone, the cache pays for itself after {made.recipe.views.count} student epochs "
            f"(epochs × students); this recipe has {made.planned_student_epochs:.3g}"
        )
    if made.recipe.train.targets == "live":
        told.append("train.targets is live: training stores nothing, the teacher runs in every step")
    return [*told, *(f"note: {note}" for note in made.notes)]


def _pays(each: BreakEven) -> str:
    planned = f"this recipe has {each.planned_student_epochs:.3g}"
    if isinf(each.student_epochs):
        return (
            f"the cache never pays for itself here: reading a target costs as much as computing it ({planned} student "
            "epochs). Set train.targets: live, or store less."
        )
    needed = f"the cache pays for itself after {each.student_epochs:.3g} student epochs (epochs × students); {planned}"
    if each.pays:
        return needed
    return (
        f"{needed}: one student saves nothing, as with a fresh view in every epoch. Train more students from it, or "
        "longer, or store fewer views."
    )


def _table(title: str, headings: tuple[str, ...], num_left: int) -> Table:
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < num_left else "right", overflow="fold")
    return table


def _targets(made: Estimate) -> Table:
    table = _table(
        f"plan of {made.recipe.name}",
        ("teacher", "views of", "bytes a view", "views", "missing", "units", "objects", "bytes in all"),
        3,
    )
    for each in made.counted.volumes:
        outputs = [f"{name} {each.codings[name].codec} {size:,}" for name, size in each.bytes_per_view.items()]
        table.add_row(
            each.teacher,
            each.views_of,
            "\n".join(outputs),
            f"{each.num_views:,}",
            f"{each.num_missing_views:,}",
            _count(each.num_units),
            _count(each.num_objects),
            human_bytes(each.num_bytes),
        )
    return table


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _accelerators(made: Estimate) -> Table:
    table = _table("teachers", ("teacher", "on", "views/s", "of one worker", "hours", "price"), 2)
    for each in made.accelerators:
        table.add_row(
            each.teacher,
            each.accelerator,
            f"{each.views_per_s:,.1f}",
            human_seconds(each.hours * 3600),
            f"{each.hours:.4g}",
            "" if each.price is None else f"{each.price:.4g}",
        )
    return table


def _alternatives(made: Estimate) -> Table:
    table = _table("cheaper alternatives", ("change", "views", "bytes in all", "hours", "what is given up"), 1)
    for each in made.alternatives:
        hours = UNKNOWN if each.hours is None else f"{each.hours:.4g}"
        table.add_row(each.change, f"{each.num_views:,}", human_bytes(each.num_bytes), hours, each.note)
    return table

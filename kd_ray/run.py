"""python -m kd_ray.run RECIPE [key=value …] [--stages a,b] [--dry-run]: the composition root."""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.locations import with_absolute_locations
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_hash, recipe_yaml, versions
from kd_ray.config.stages import STAGES
from kd_ray.errors import KdRayError, RecipeError
from kd_ray.storage import is_remote, open_storage
from kd_ray.telemetry.events import EventLog, StoredEventLog

if TYPE_CHECKING:
    from pipelines.stages.report import Report

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
LOG_WIDTH = 120


def run_recipe(
    recipe: Recipe, *, console: Console, stages: Sequence[str] = STAGES, dry_run: bool = False
) -> "Report | None":
    """Run the stages of a recipe, or with `dry_run` only print the resolved recipe and the plan.

    Raises:
        KdRayError: anything a user can cause; the message is one paragraph.
    """
    from kd_ray.engine.session import RaySession, is_submitted_job
    from pipelines.context import Run
    from pipelines.distill import distill
    from pipelines.dry_run import show_plan
    from pipelines.inputs import check_inputs

    if is_submitted_job():
        _refuse_relative(recipe)
    chosen = _known_stages(stages)
    recipe = with_absolute_locations(recipe, base=Path.cwd())
    events = _event_log(recipe, dry_run=dry_run)
    with closing(events), RaySession(recipe.cluster) as session:
        run = Run(
            recipe=recipe,
            storage=open_storage(recipe.out),
            console=console,
            session=session,
            events=events,
            stages=chosen,
        )
        if dry_run or chosen != ("pack",):  # which needs no model
            check_inputs(run, keep=not dry_run)
        if dry_run:
            show_plan(run)
            return None
        _write_resolved(recipe)
        return distill(run)


def main(
    recipe: Annotated[Path, typer.Argument(help="the recipe, a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="dotted overrides")] = None,
    stages: Annotated[str, typer.Option(help=f"only these, separated by commas: {','.join(STAGES)}")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the resolved recipe and the plan, do nothing")
    ] = False,
) -> None:
    """Run a recipe: each stage finds what is committed and does only the rest."""
    console = make_console()
    with exit_status(console, interrupted="what was committed is kept, the same command goes on from there"):
        loaded = load_recipe(recipe, overrides or [])
        run_recipe(
            loaded,
            console=console,
            stages=[stage.strip() for stage in stages.split(",")] if stages else STAGES,
            dry_run=dry_run,
        )


@contextmanager
def exit_status(console: Console, *, interrupted: str) -> Iterator[None]:
    """What a command ends with: EXIT_BAD_INPUT and one paragraph where a user can mend it, EXIT_INTERRUPTED after a
    signal, with what that means.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KdRayError as error:
        Console(stderr=True).print("[bold red]error:[/] ", end="")
        Console(stderr=True, soft_wrap=True).print(str(error), markup=False, highlight=False)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        console.print(f"interrupted; {interrupted}", highlight=False)
        raise SystemExit(EXIT_INTERRUPTED) from None


def make_console() -> Console:
    """The terminal as wide as it is; a log file, which has no width, at LOG_WIDTH."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _event_log(recipe: Recipe, *, dry_run: bool) -> EventLog | StoredEventLog:
    if dry_run:
        return EventLog(None)
    if is_remote(recipe.out):
        return StoredEventLog(open_storage(recipe.out))
    return EventLog(Path(recipe.out.removeprefix("file://")) / "events.jsonl")


def _known_stages(stages: Sequence[str]) -> tuple[str, ...]:
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise RecipeError(f"--stages: got {','.join(unknown) or 'nothing'}; allowed: {','.join(STAGES)}.")
    return tuple(stage for stage in STAGES if stage in stages)


def _refuse_relative(recipe: Recipe) -> None:
    """A submitted job runs in Ray's unpacked copy of the working directory, which is thrown away."""
    locations = {"out": recipe.out, "cache.uri": recipe.cache.uri, "corpus.packed_uri": recipe.corpus.packed_uri}
    relative = {path: uri for path, uri in locations.items() if not is_remote(uri) and not Path(uri).is_absolute()}
    if relative:
        listed = ", ".join(f"{path}={uri}" for path, uri in relative.items())
        raise RecipeError(
            f"{listed}: a relative location in a submitted job would land in Ray's unpacked copy of the working "
            "directory and be lost. Give absolute paths or URLs, e.g. out=/data/run."
        )


def _write_resolved(recipe: Recipe) -> None:
    """What runs, before any work: the resolved recipe, its hash, and the versions."""
    storage = open_storage(recipe.out)
    storage.write("recipe.yaml", recipe_yaml(recipe).encode())
    identity = {"recipe_sha256": recipe_hash(recipe), "versions": versions(), "command": sys.argv}
    storage.write("run.json", json.dumps(identity, indent=1).encode())


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()

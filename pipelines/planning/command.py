"""`kd-ray plan`: count, time, print, and keep the numbers beside the run's outputs for a later comparison."""

import io
import json
from pathlib import Path

from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.locations import with_absolute_locations
from kd_ray.config.rates import Rates, load_rates
from kd_ray.config.recipe import Recipe
from kd_ray.engine.session import RaySession
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from kd_ray.telemetry.progress import meter
from pipelines.context import Run
from pipelines.inputs import given_sizes, refuse_misfits
from pipelines.planning.actual import PLAN_FILE
from pipelines.planning.estimate import Estimate, document, estimate
from pipelines.planning.tables import show_estimate
from pipelines.planning.timing import time_recipe
from pipelines.planning.volumes import count_volumes


def plan_command(
    path: Path, overrides: list[str], *, as_json: bool, calibrate: bool, rates_path: Path | None, console: Console
) -> None:
    """Print the plan of a recipe file; with `as_json` nothing else is on stdout.

    Raises:
        KdRayError: anything a user can cause.
    """
    rates = None if rates_path is None else load_rates(rates_path)
    recipe = load_recipe(path, overrides)
    told = Console(stderr=True, width=console.width) if as_json else console
    made = make_estimate(recipe, rates=rates, calibrate=calibrate, console=told)
    if as_json:
        print(json.dumps(document(made), indent=1))
    else:
        show_estimate(made, console)


def make_estimate(recipe: Recipe, *, rates: Rates | None, calibrate: bool, console: Console) -> Estimate:
    """The plan of a recipe; what was timed is kept as `plan.json` in its `out`, and nothing else is written.

    Raises what `count_volumes`, `time_recipe` and `refuse_misfits` do.
    """
    recipe = with_absolute_locations(recipe, base=Path.cwd())
    run = Run(
        recipe=recipe,
        storage=open_storage(recipe.out),
        console=Console(file=io.StringIO()),
        session=RaySession(recipe.cluster),
        events=EventLog(None),
        stages=(),
    )
    refuse_misfits(list(given_sizes(recipe)), title=recipe.name)
    counted = count_volumes(run)
    timed = None
    if calibrate:
        with meter(console, "timing", unit="images") as progress:
            timed = time_recipe(recipe, counted, meter=progress)
    made = estimate(recipe, counted, timed, rates)
    if timed is not None:
        run.storage.write(PLAN_FILE, json.dumps(document(made), indent=1).encode())
    return made

"""The `kd-ray` command: `kd-ray RECIPE …`, or `kd-ray run RECIPE …`, is `python -m kd_ray.run RECIPE …`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kd_ray.cli_cache import app as cache_app
from kd_ray.config.load import load_recipe
from kd_ray.run import exit_status, make_console
from kd_ray.run import main as run_main

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command("run")(run_main)
app.add_typer(cache_app, name="cache")


@app.callback()
def root() -> None:
    """Run a vision teacher once over fixed, replayable views; distil any number of students from the cache."""


@app.command()
def views(
    recipe: Annotated[Path, typer.Argument(help="the recipe, a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="dotted overrides")] = None,
    samples: Annotated[int | None, typer.Option(help="how many images; without it 6")] = None,
    views: Annotated[
        int | None, typer.Option(help="how many views of each; without it the recipe's number, at most 8")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="the folder to write to; without it views/ beside the run's outputs")
    ] = None,
) -> None:
    """Write a contact sheet (PNG and HTML) of a recipe's views, as each teacher and the student see them.

    Of the packed corpus, or of the first images of its source while nothing is packed. Runs no model.
    """
    console = make_console()
    with exit_status(console, interrupted="nothing was written"):
        loaded = load_recipe(recipe, overrides or [])
        from pipelines.show_views import DEFAULT_SAMPLES, SheetRequest, show_views

        request = SheetRequest(num_samples=DEFAULT_SAMPLES if samples is None else samples, num_views=views, out=out)
        show_views(loaded, request, console=console)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="the recipe, a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="dotted overrides")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there")] = False,
    calibrate: Annotated[
        bool, typer.Option(help="time a few dozen images of the recipe here; without it there are only counts")
    ] = True,
    rates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="views a second and price an hour by accelerator, YAML")
    ] = None,
) -> None:
    """Say what a recipe will cost, before anything is spent: views, bytes, hours, prices, and when its cache pays."""
    console = make_console()
    with exit_status(console, interrupted="nothing was changed"):
        from pipelines.planning.command import plan_command

        plan_command(recipe, overrides or [], as_json=as_json, calibrate=calibrate, rates_path=rates, console=console)


def main() -> None:
    """Entry point of the installed command; `kd-ray RECIPE …` is short for `kd-ray run RECIPE …`."""
    if len(sys.argv) > 1 and sys.argv[1].endswith((".yaml", ".yml")):
        sys.argv.insert(1, "run")
    app()

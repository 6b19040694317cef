"""The `kd-ray` command: `kd-ray RECIPE …`, or `kd-ray run RECIPE …`, is `python -m kd_ray.run RECIPE …`."""

import sys

import typer

from kd_ray.run import main as run_main

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command("run")(run_main)


@app.callback()
def root() -> None:
    """Run a vision teacher once over fixed, replayable views; distil any number of students from the cache."""


def main() -> None:
    """Entry point of the installed command; `kd-ray RECIPE …` is short for `kd-ray run RECIPE …`."""
    if len(sys.argv) > 1 and sys.argv[1].endswith((".yaml", ".yml")):
        sys.argv.insert(1, "run")
    app()

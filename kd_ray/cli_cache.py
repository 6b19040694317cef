"""The `kd-ray cache` commands: what is in a cache, whether it is whole, and what may go."""

from typing import Annotated

import typer

from kd_ray.run import exit_status, make_console

app = typer.Typer(no_args_is_help=True, help="Look into a cache, check it, clean it.")

Uri = Annotated[str, typer.Argument(metavar="URI", help="the location of the cache: a recipe's cache.uri")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="a name that `kd-ray cache ls` gives, or a part of one")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there")]
UNCHANGED = "nothing was changed"


@app.command("ls")
def list_(uri: Uri, as_json: AsJson = False) -> None:
    """List view sets and outputs with their sizes, ages and completeness."""
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.ls import list_cache

        list_cache(uri, console=console, as_json=as_json)


@app.command()
def show(uri: Uri, name: Name, as_json: AsJson = False) -> None:
    """Show one view set or output: identity, statistics, units."""
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.show import show_entry

        show_entry(uri, name, console=console, as_json=as_json)

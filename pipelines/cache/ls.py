"""`kd-ray cache ls`: every view set and output with its size, age and completeness."""

import time

from rich import box
from rich.console import Console
from rich.table import Table

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.summary import Line, summarize
from kd_ray.storage import redacted
from kd_ray.telemetry.units import human_bytes, human_seconds
from pipelines.cache.told import findings_json, print_findings, print_json


def list_cache(uri: str, *, console: Console, as_json: bool) -> None:
    """Print a table, and below it what is wrong.

    Raises:
        CacheIncomplete: there is no cache.
    """
    catalog = read_catalog(uri)
    lines, findings = summarize(catalog)
    if as_json:
        print_json({"entries": [each.to_json() for each in lines], "findings": findings_json(findings)})
        return
    if not lines:
        console.print(f"{redacted(uri)}: nothing is stored here yet", highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(_table(lines, now_s=time.time()))
    print_findings(console, findings)


def _table(lines: list[Line], *, now_s: float) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("name", no_wrap=True)  # to be copied
    table.add_column("what")
    for heading in ("units", "views", "bytes", "age"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for each in lines:
        table.add_row(
            each.path,
            each.what,
            f"{each.units:,}",
            f"{each.views:,}",
            human_bytes(each.num_bytes),
            "" if each.newest_s is None else human_age(now_s - each.newest_s),
            each.state,
        )
    return table


def human_age(seconds: float) -> str:
    """Days from two on, else as durations are told."""
    days = seconds / 86_400
    return f"{days:.0f} days" if days >= 2 else human_seconds(max(seconds, 0.0))

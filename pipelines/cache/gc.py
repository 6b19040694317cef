"""`kd-ray cache gc`: list what no reader looks at, and with --yes remove it."""

import time

from rich import box
from rich.console import Console
from rich.table import Table

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.garbage import Garbage, find_garbage, remove_garbage, whole_target_set
from kd_ray.telemetry.units import human_bytes
from pipelines.cache.ls import human_age
from pipelines.cache.told import findings_json, print_findings, print_json


def collect_garbage(
    uri: str,
    *,
    older_than_s: float,
    target_set: str | None,
    remove: bool,
    console: Console,
    as_json: bool,
) -> None:
    """List what would go, or what has gone.

    Raises:
        RecipeError: there is no such target set.
    """
    catalog = read_catalog(uri)
    now_s = time.time()
    garbage = [] if target_set is None else whole_target_set(catalog, target_set)
    inside = tuple(f"{each.path}/" for each in garbage)
    garbage += [
        each for each in find_garbage(catalog, before_s=now_s - older_than_s) if not each.path.startswith(inside)
    ]
    if remove:
        remove_garbage(uri, garbage)
    if as_json:
        print_json(
            {
                "removed": remove,
                "garbage": [{"path": each.path, "bytes": each.num_bytes, "reason": each.reason} for each in garbage],
                "findings": findings_json(catalog.findings),
            }
        )
        return
    if garbage:
        console.print(_table(garbage, now_s=now_s))
    print_findings(console, catalog.findings)
    console.print(_last_line(garbage, removed=remove), highlight=False)


def _table(garbage: list[Garbage], *, now_s: float) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("path", overflow="fold")
    for heading in ("bytes", "age"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    for each in garbage:
        table.add_row(each.path, human_bytes(each.num_bytes), human_age(now_s - each.modified_s), each.reason)
    return table


def _last_line(garbage: list[Garbage], *, removed: bool) -> str:
    total = human_bytes(sum(each.num_bytes for each in garbage))
    if not garbage:
        return "nothing to remove"
    return f"removed {total}" if removed else f"{total} would go; nothing was removed, --yes removes it"

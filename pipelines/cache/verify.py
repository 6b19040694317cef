"""`kd-ray cache verify`: read everything that is committed, and name what is not as it was written."""

import time
from typing import TYPE_CHECKING

from rich.console import Console

from kd_ray.cache.catalog import Catalog, Entry, read_catalog
from kd_ray.cache.findings import Finding
from kd_ray.cache.garbage import Garbage, find_garbage
from kd_ray.cache.verify import Verification, verify
from kd_ray.telemetry.progress import meter
from kd_ray.telemetry.units import human_bytes
from pipelines.cache.told import EXIT_FOUND, findings_json, print_findings, print_json

if TYPE_CHECKING:
    from kd_ray.extraction.deep import Deep
    from pipelines.cache.deep import DeepRequest

MEGABYTE = 1_000_000


def verify_cache(
    uri: str, name: str | None, *, deep: "DeepRequest | None" = None, console: Console, as_json: bool
) -> int:
    """The exit status: 0 where all is well, EXIT_FOUND where anything is off; with `deep`, teachers are asked again.

    Raises:
        RecipeError: nothing in the cache has that name.
    """
    catalog = read_catalog(uri)
    progress_console = Console(stderr=True) if as_json else console
    entries = catalog.entries if name is None else _named(catalog, name)
    verification = verify_with_progress(catalog, entries, console=progress_console)
    findings = [each for each in verification.all_findings if name is None or name in each.location]
    recomputed = None
    if deep is not None:
        from pipelines.cache.deep import verify_deep

        recomputed = verify_deep(catalog, name, deep, verification.findings, console=progress_console)
        findings += [each for found in recomputed.findings.values() for each in found]
    garbage = find_garbage(catalog, before_s=time.time())
    if as_json:
        document = _document(verification, findings, garbage)
        print_json(document if recomputed is None else {**document, "deep": _deep_document(recomputed)})
    else:
        print_findings(console, findings)
        if recomputed is not None:
            console.print(_deep_line(recomputed), highlight=False, soft_wrap=True)
        console.print(_last_line(verification, findings, garbage), highlight=False, soft_wrap=True)
    return EXIT_FOUND if findings else 0


def verify_with_progress(catalog: Catalog, entries: dict[str, Entry], *, console: Console) -> Verification:
    """All of `entries`, under a bar of the bytes read."""
    with meter(console, "verifying", unit="MB") as progress:
        return verify(
            catalog,
            entries,
            report=lambda done, total: progress.update(-(-done // MEGABYTE), total=-(-total // MEGABYTE)),
        )


def _named(catalog: Catalog, name: str) -> dict[str, Entry]:
    """What the name matches; nothing where it is only in the place of something that cannot be read at all."""
    is_damaged = any(name in each.location for each in catalog.findings) or any(
        name in each for each in catalog.unnamed
    )
    return {} if is_damaged and not any(name in path for path in catalog.entries) else catalog.matching(name)


def _last_line(verification: Verification, findings: list[Finding], garbage: list[Garbage]) -> str:
    read = f"{verification.num_units:,} units, {human_bytes(verification.num_bytes)} read"
    left = (
        f"; {len(garbage)} leftovers of {human_bytes(_num_bytes(garbage))} beside (kd-ray cache gc)" if garbage else ""
    )
    found = f"[bold red]{len(findings)} findings[/]" if findings else "[bold]all as written[/]"
    return f"{read}: {found}{left}"


def _deep_line(deep: "Deep") -> str:
    worst = "; ".join(f"{path} {error:.1e}" for path, error in deep.worst.items())
    rounded = f"; {deep.num_rounded} views differ by the rounding of another decoder" if deep.num_rounded else ""
    return f"{deep.num_targets:,} views rendered and computed again{rounded}; worst error in deviations: {worst}"


def _deep_document(deep: "Deep") -> dict[str, object]:
    return {"targets": deep.num_targets, "rounded_views": deep.num_rounded, "worst_error": deep.worst}


def _document(verification: Verification, findings: list[Finding], garbage: list[Garbage]) -> dict[str, object]:
    return {
        "units": verification.num_units,
        "bytes": verification.num_bytes,
        "findings": findings_json(findings),
        "garbage": {"count": len(garbage), "bytes": _num_bytes(garbage)},
    }


def _num_bytes(garbage: list[Garbage]) -> int:
    return sum(each.num_bytes for each in garbage)

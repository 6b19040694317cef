"""What all cache commands print alike."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from kd_ray.cache.findings import Finding

EXIT_FOUND = 1


def print_json(value: Any) -> None:
    """The only thing on stdout, on several lines."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    """One line each."""
    for each in findings:
        console.print(str(each), style="red", highlight=False, markup=False, soft_wrap=True)


def findings_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """As `--json` gives them."""
    return [{"object": each.location, "problem": each.problem} for each in findings]

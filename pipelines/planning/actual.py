"""Plan and actual side by side: kept when a run extracts, told in metrics.json.

Time is that of the workers on their units, all added up: neither the start of Ray nor the loading of teachers is in a
plan.
"""

import json
from typing import Any

from kd_ray.storage import digest_of_json
from kd_ray.telemetry.rates import ExtractionRates
from pipelines.context import Record, Run
from pipelines.planning.estimate import rates_key
from pipelines.planning.volumes import volumes_of
from pipelines.stages.plan import CachePlan

STAGE = "plan-and-actual"
PLAN_FILE = "plan.json"

Number = float | int


def keep_plan(run: Run, plan: CachePlan) -> None:
    """Before extraction: what is to be done, and how long that takes where `kd-ray plan` has timed this recipe."""
    volumes = list(volumes_of(plan))
    planned: Record = {
        "views": sum(each.num_missing_views for each in volumes),
        "bytes": sum(each.num_missing_bytes for each in volumes),
    }
    timed = _timed(run)
    rates = {} if timed is None else timed["seconds_per_view"]
    if timed is not None and all(each.teacher in rates for each in volumes):
        planned["extract_seconds"] = sum(each.num_missing_views * rates[each.teacher] for each in volumes)
        planned["student_epoch_seconds"] = timed["student_epoch_s"]
    run.write_record(STAGE, _key(plan), {"plan": planned})


def keep_actual(run: Run, plan: CachePlan, rates: ExtractionRates, *, num_views: int) -> None:
    """After extraction, beside what was planned."""
    kept = run.record(STAGE, _key(plan)) or {}
    actual = {
        "views": num_views,
        "bytes": rates.value_bytes,
        "extract_seconds": round(rates.worker_s, 3),
        "teacher_idle_share": round(rates.idle_share, 4),
    }
    run.write_record(STAGE, _key(plan), {**kept, "actual": actual})


def plan_and_actual(run: Run, plan: CachePlan, *, student_epoch_seconds: float | None) -> dict[str, Number]:
    """For metrics.json: `plan/…`, `actual/…`, and actual over plan of what both have; {} where nothing is kept."""
    kept = run.record(STAGE, _key(plan))
    if kept is None or "actual" not in kept:
        return {}
    planned: dict[str, Number] = kept["plan"]
    actual: dict[str, Number] = dict(kept["actual"])
    if student_epoch_seconds is not None:
        actual["student_epoch_seconds"] = round(student_epoch_seconds, 3)
    found: dict[str, Number] = {f"plan/{name}": value for name, value in planned.items()}
    found |= {f"actual/{name}": value for name, value in actual.items()}
    found |= {
        f"actual_over_plan/{name}": round(actual[name] / value, 4)
        for name, value in planned.items()
        if value and name in actual
    }
    return found


def _timed(run: Run) -> dict[str, Any] | None:
    """What `kd-ray plan` has kept, where it was of the same models, views and batches."""
    try:
        found: dict[str, Any] = json.loads(run.storage.read(PLAN_FILE))
    except FileNotFoundError:
        return None
    return found if found["rates_key"] == rates_key(run.recipe) else None


def _key(plan: CachePlan) -> str:
    return digest_of_json({"targets": [each.job.target_set.fingerprint for each in plan.all]})

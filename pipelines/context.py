"""What all stages of one run share, and the one rhythm they have: find what is committed, else do and commit."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from kd_ray.config.recipe import Recipe
from kd_ray.engine.session import RaySession
from kd_ray.errors import RecipeError
from kd_ray.storage import Storage, digest_of_json
from kd_ray.telemetry.events import EventLog, StoredEventLog
from kd_ray.telemetry.progress import Meter, meter
from kd_ray.telemetry.units import human_seconds

if TYPE_CHECKING:
    from kd_ray.engine.board import Standing

Record = dict[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one stage in this run; `seconds` and `images` are those of the work, whenever it was done."""

    stage: str
    status: str
    seconds: float
    images: int
    detail: str

    @property
    def images_per_s(self) -> float | None:
        """Rate of the stage's work; None where it is not about images, or was not timed."""
        return self.images / self.seconds if self.images and self.seconds > 0 else None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One invocation: the recipe, where its outputs go, who watches, and the cluster (started late)."""

    recipe: Recipe
    storage: Storage
    console: Console
    session: RaySession
    events: EventLog | StoredEventLog
    stages: tuple[str, ...]
    outcomes: list[Outcome] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"extract/teacher_forwards": 0})

    def committed_outcome(self, stage: str, *, key: str, detail: str) -> None:
        """Note that a stage had nothing to do; its seconds and images are those of the run that did it."""
        timing = self.record(stage, key) or {"seconds": 0.0, "images": 0}
        self._add(Outcome(stage=stage, status="already committed", detail=detail, **_timing(timing)))

    def skipped_outcome(self, stage: str, *, detail: str) -> None:
        """Note that the recipe asks nothing of a stage."""
        self._add(Outcome(stage=stage, status="nothing to do", seconds=0.0, images=0, detail=detail))

    def plan_outcome(self, *, seconds: float, anything_missing: bool, detail: str) -> None:
        """Note what was planned."""
        status = "done" if anything_missing else "already committed"
        self._add(Outcome(stage="plan", status=status, seconds=seconds, images=0, detail=detail))

    def work(
        self, stage: str, do: Callable[[Meter], tuple[Result, int, str]], *, key: str, unit: str = "images"
    ) -> Result:
        """Do a stage's work under its progress bar; `do` gives the result, images handled, and a line for people.

        Raises:
            RecipeError: the stage was not asked for, though it has work to do.
        """
        if stage not in self.stages:
            raise RecipeError(
                f"--stages: {stage} is not among {','.join(self.stages)}, but what it makes is not committed yet. "
                f"Add {stage}, or leave --stages out."
            )
        self.events.write("stage_started", stage=stage)
        start_s = time.perf_counter()
        with meter(self.console, stage, unit=unit) as progress:
            result, images, detail = do(progress)
        seconds = time.perf_counter() - start_s
        self.write_record(stage, key, {"seconds": round(seconds, 3), "images": images})
        self._add(Outcome(stage=stage, status="done", seconds=seconds, images=images, detail=detail))
        return result

    def record(self, stage: str, key: str) -> Record | None:
        """The stage's record under `key` (a digest of what decides its result); None where there is none."""
        try:
            record: Record = json.loads(self.storage.read(_record_name(stage, key)))
        except FileNotFoundError:
            return None
        return record

    def write_record(self, stage: str, key: str, record: Record) -> None:
        """Keep the stage's record under `key`."""
        self.storage.write(_record_name(stage, key), json.dumps(record, indent=1).encode())

    def _add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.events.write("stage_ended", stage=outcome.stage, status=outcome.status, seconds=round(outcome.seconds, 3))
        timing = human_seconds(outcome.seconds) if outcome.status == "done" else outcome.status
        self.console.print(f"[bold]{outcome.stage:<9}[/] {timing:<18} {outcome.detail}", highlight=False)


def key_of(**parts: Any) -> str:
    """A digest of JSON-able parts."""
    return digest_of_json(parts)


def show_on(meter: Meter) -> "Callable[[Standing], None]":
    """Draw what workers write on their board as a stage's bar."""
    return lambda standing: meter.update(standing.done, total=standing.total, note=standing.note)


def _record_name(stage: str, key: str) -> str:
    return f"stages/{stage}-{key[:16]}.json"


def _timing(record: Record) -> dict[str, Any]:
    return {"seconds": float(record["seconds"]), "images": int(record["images"])}

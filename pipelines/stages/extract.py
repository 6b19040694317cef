"""extract: every teacher over every view that is missing, each forward pass once."""

from collections.abc import Sequence

from kd_ray.errors import CacheIncomplete, StorageError
from kd_ray.extraction.folding import Folding
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.unit import UnitReport
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.rates import ExtractionRates
from kd_ray.telemetry.units import human_bytes
from pipelines.context import Run, key_of
from pipelines.planning.actual import keep_actual, keep_plan
from pipelines.stages.partial import applies
from pipelines.stages.plan import CachePlan


def extract_targets(run: Run, plan: CachePlan, *, stage: str = "extract") -> None:
    """Compute and commit what is missing, for `stage`; the teachers' forward passes are counted."""
    key = key_of(targets=[each.job.target_set.fingerprint for each in plan.all])
    missing = [each for each in plan.all if each.missing]
    if not missing:
        told = describe(forwards=0, num_bytes=stored_bytes(plan), rounded=0)
        run.committed_outcome(stage, key=key, detail=told + fold_what_is_left(plan))
        return
    if stage == "extract" and applies(run):
        run.skipped_outcome(stage, detail="left to another run; see train.missing_targets")
        return

    _refuse_imported(missing)
    keep_plan(run, plan)

    def do(meter: Meter) -> tuple[None, int, str]:
        for each in missing:
            needs = each.job.teacher.resources
            for_rendering = 1 if needs.placement == "split" else 0
            run.session.start_for(
                each.job.teacher_name, num_cpus=needs.num_cpus + for_rendering, num_gpus=needs.num_gpus
            )
        from kd_ray.engine.extract import extract_units

        total = sum(each.view_set.views_in(each.missing) for each in missing)
        tally = _Tally(run, meter, total, num_units=sum(len(each.missing) for each in missing))
        folding = {id(each): Folding(each) for each in missing}
        extract_units(
            missing,
            can_grow=run.session.can_grow,
            on_report=lambda of, report: tally.add(report, teacher=of.job.teacher_name, folding=folding[id(of)]),
            tell=lambda line: run.console.print(line, highlight=False, soft_wrap=True),
        )
        for each in plan.all:
            Folding(each).seal()
        keep_actual(run, plan, tally.rates, num_views=tally.views)
        told = describe(forwards=tally.forwards, num_bytes=stored_bytes(plan), rounded=tally.rounded)
        return None, tally.views, told

    run.work(stage, do, key=key, unit="views")


def _refuse_imported(missing: Sequence[TargetPlan]) -> None:
    for each in missing:
        if each.job.teacher.network is None:
            raise CacheIncomplete(
                f"teacher {each.job.teacher_name}: {len(each.missing)} of {len(each.view_set.units)} units of its "
                f"imported targets are missing for {each.view_set.policy.name} with seed {each.view_set.seed}, and "
                "nothing can compute them. Import features of these views (kd-ray cache import), or state the views "
                "that were imported."
            )


class _Tally:
    """Adds up the reports of units."""

    def __init__(self, run: Run, meter: Meter, total: int, *, num_units: int) -> None:
        self._run, self._meter, self._total = run, meter, total
        self.rates = ExtractionRates(num_units=num_units)
        self.views = self.forwards = self.rounded = 0
        meter.update(0, total=total)

    def add(self, report: UnitReport, *, teacher: str, folding: Folding) -> None:
        """One more unit, whose commits are folded in time."""
        self.views += report.num_views
        self.forwards += report.num_forwards
        self.rounded += report.num_rounded
        self._run.counts["extract/teacher_forwards"] += report.num_forwards
        self.rates.add(
            accelerator=report.accelerator,
            views=report.num_views,
            seconds=report.seconds,
            teacher_s=report.teacher_s,
            value_bytes=report.value_bytes,
        )
        self._run.events.write(
            "unit",
            id=report.unit_id,
            teacher=teacher,
            accelerator=report.accelerator,
            views=report.num_views,
            seconds=round(report.seconds, 3),
            render_wait_s=round(report.render_wait_s, 3),
            teacher_s=round(report.teacher_s, 3),
            value_bytes=report.value_bytes,
        )
        self._meter.update(self.views, total=self._total, note=self.rates.note())
        folding.add(report.unit_id)


def fold_what_is_left(plan: CachePlan) -> str:
    """Fold what an earlier run has committed; where the cache cannot be written, a warning for the stage's line."""
    try:
        for each in plan.all:
            Folding(each).seal()
    except StorageError as error:
        return f". WARNING: commits are not folded, which makes opening the cache slow: {error}"
    return ""


def describe(*, forwards: int, num_bytes: int, rounded: int) -> str:
    """The stage in a line; `rounded` views were stored by another decoder than the one here."""
    told = f"{forwards:,} teacher forwards, {human_bytes(num_bytes)} of targets"
    if rounded:
        told += (
            f". WARNING: of the compared views {rounded:,} differ from what is stored by rounding: the images were "
            "decoded by another library here. Install what the view set records"
        )
    return told


def stored_bytes(plan: CachePlan) -> int:
    """Bytes of all committed units of the run's target sets."""
    return sum(each.committed_bytes() for each in plan.all)

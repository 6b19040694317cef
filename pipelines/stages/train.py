"""train: the student from the cache, and where the recipe asks the same student without a teacher."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_yaml
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import KdRayError, TrainingError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import join, open_storage
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.trackers import require_trackers
from kd_ray.training.job import RUN_FILE, TrainJob, is_finished
from pipelines.context import Record, Run, key_of, show_on
from pipelines.stages.many import PlannedStudent, loops_of, planned_students
from pipelines.stages.partial import describe_missing
from pipelines.stages.plan import CachePlan

if TYPE_CHECKING:
    from kd_ray.engine.side_by_side import Failure
    from kd_ray.engine.train import TrainGroup

RECIPE_FILE = "recipe.yaml"
NUM_NAMED = 4  # of many students, how many a line names


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """A finished run: where it lies, what it recorded, and what was planned of it."""

    job: TrainJob
    record: Record
    with_teacher: bool
    title: str = ""
    reference: str | None = None


def train_students(
    run: Run, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher], plan: CachePlan
) -> list[TrainedStudent]:
    """The distilled students first, then the references.

    Raises:
        TrainingError: some of several students failed; the others are finished.
    """
    planned = planned_students(run, corpus, teachers, plan)
    jobs = [each.job for each in planned]
    key = key_of(runs=[job.run_uri.rsplit("/", 1)[-1] for job in jobs])
    if all(is_finished(job) for job in jobs):
        students = _finished(planned)
        run.committed_outcome("train", key=key, detail=_describe(students))
        return students

    require_trackers(run.recipe.train.tracking)

    def do(meter: Meter) -> tuple[list[TrainedStudent], int, str]:
        train = run.recipe.train
        needs = train.resources_per_worker
        finished_before = {job.run_uri for job in jobs if is_finished(job)}
        for each in planned:
            if each.job.run_uri not in finished_before:
                open_storage(each.job.run_uri).write(RECIPE_FILE, recipe_yaml(each.recipe).encode())
        run.session.start_for("train", num_cpus=needs.num_cpus, num_gpus=needs.num_gpus, num_workers=train.num_workers)
        from kd_ray.engine.train import train_group

        def tell(line: str) -> None:
            run.console.print(f"  {line}", highlight=False, soft_wrap=True)

        groups = worker_groups(run.recipe, loops_of(planned), key=key, room=_room(run.recipe))
        storage_uri = join(run.storage.uri, "runs")
        if run.recipe.has_many_students:
            from kd_ray.engine.side_by_side import train_side_by_side

            told = (
                f"train: {len(jobs) - len(finished_before)} of {len(jobs)} students to train, {len(groups)} at a time"
            )
            run.console.print(told, highlight=False, soft_wrap=True)
            failures = train_side_by_side(
                groups,
                storage_uri=storage_uri,
                max_failures=train.max_failures,
                on_progress=show_on(meter),
                on_line=tell,
            )
            _refuse_failed(run, failures, num_students=len(jobs))
        else:
            ((name, group),) = groups
            train_group(
                group,
                name=name,
                storage_uri=storage_uri,
                max_failures=train.max_failures,
                on_progress=show_on(meter),
                on_line=tell,
            )
        students = _finished(planned)
        images = sum(int(each.record["images"]) for each in students if each.job.run_uri not in finished_before)
        return students, images, _describe(students)

    return run.work("train", do, key=key)


def worker_groups(recipe: Recipe, jobs: Sequence[TrainJob], *, key: str, room: int) -> list[tuple[str, "TrainGroup"]]:
    """The jobs dealt out to worker groups, at most as many as there is `room` for, each with its name; those with
    nothing left to train are left out.

    They are of all jobs, finished or not: a group that was interrupted finds its checkpoints by its name.
    """
    from kd_ray.engine.train import TrainGroup

    train, evaluate = recipe.train, recipe.evaluate
    count = min(room, train.max_parallel_students or room, len(jobs))
    groups = [
        TrainGroup(
            jobs=tuple(jobs[index::count]),
            evaluation_policy=evaluate.policy,
            evaluation_batch_size=evaluate.batch_size_per_worker,
            resources=train.resources_per_worker,
            num_workers=train.num_workers,
        )
        for index in range(count)
    ]
    if count == 1:
        return [(f"group-{key[:12]}", groups[0])]
    named = [(key_of(runs=[job.run_uri.rsplit("/", 1)[-1] for job in group.jobs]), group) for group in groups]
    return [(f"group-{name[:12]}", group) for name, group in named if not all(map(is_finished, group.jobs))]


def _room(recipe: Recipe) -> int:
    """How many worker groups there may be at the same time; a student by itself has one."""
    if not recipe.has_many_students:
        return 1
    from kd_ray.engine.side_by_side import num_groups_that_fit

    return num_groups_that_fit(recipe.train.resources_per_worker, num_workers=recipe.train.num_workers)


def _refuse_failed(run: Run, failures: Sequence["Failure"], *, num_students: int) -> None:
    """Raise where any student failed, after all others have been trained."""
    if not failures:
        return
    told = [
        f"train: {len(failures)} of {num_students} students failed, the others are finished. The same command goes on "
        "with those that failed:",
        *(f"  {each.job.name}: {each.error}" for each in failures),
    ]
    if all(isinstance(each.error, KdRayError) for each in failures):
        raise TrainingError("\n".join(told)) from None
    run.console.print("\n".join(told), markup=False, highlight=False, soft_wrap=True)
    raise next(each.error for each in failures if not isinstance(each.error, KdRayError))


def _finished(planned: Sequence[PlannedStudent]) -> list[TrainedStudent]:
    return [
        TrainedStudent(
            job=each.job,
            record=json.loads(open_storage(each.job.run_uri).read(RUN_FILE)),
            with_teacher=each.with_teacher,
            title=each.title,
            reference=each.reference,
        )
        for each in planned
    ]


def _describe(students: list[TrainedStudent]) -> str:
    names = " and ".join(each.job.name for each in students[:NUM_NAMED])
    if len(students) > NUM_NAMED:
        names += f" and {len(students) - NUM_NAMED} more"
    told = (
        f"{names}: {_range(students, 'num_parameters', 1e3)} k parameters, {_range(students, 'num_steps')} steps each"
    )
    for each in students[:NUM_NAMED]:
        told += _describe_end(each)
    num_rounded = max(each.record.get("num_rounded_views") or 0 for each in students)
    if num_rounded:
        told += (
            f". WARNING: of the checked views {num_rounded:,} differ from what the teacher saw by "
            "rounding: the images were decoded by another library here. Install what the view set records"
        )
    snapshot = next((each.record["snapshot"] for each in students if each.record.get("snapshot")), None)
    if snapshot is not None:
        told += f". {describe_missing(snapshot)}"
    return told


def _describe_end(student: TrainedStudent) -> str:
    """Why a run has ended before its last step, and which weights count, with what they and the last ones reached."""
    record, told = student.record, ""
    if record.get("stopped"):
        told += f". {student.job.name} took {record['num_steps']:,}: {record['stopped']}"
    exported = record.get("exported", "last")
    if exported != "last":
        suffix = f"_{exported}"
        found = {name: value for entry in record["history"] for name, value in entry.items() if "top1" in name}
        scores = [
            f"{100 * value:.2f} %, the last weights {100 * found[name.removesuffix(suffix)]:.2f} %"
            for name, value in found.items()
            if name.endswith(suffix)
        ]
        told += f". Exported of {student.job.name}: {exported} ({'; '.join(scores) or 'not measured'})"
    return told


def _range(students: Sequence[TrainedStudent], key: str, scale: float = 1.0) -> str:
    """What all have of something, or the least and the most."""
    values = [each.record[key] / scale for each in students]
    least, most = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return least if least == most else f"{least} to {most}"

"""train: the student from the cache, and where the recipe asks the same student without a teacher."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import join, open_storage
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.trackers import require_trackers
from kd_ray.training.job import RUN_FILE, TrainJob, is_finished
from pipelines.context import Record, Run, key_of, show_on
from pipelines.stages.partial import (
    describe_missing,
)
from pipelines.stages.plan import CachePlan
from pipelines.stages.students import distilled_job, reference_job


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """A finished run: where it lies and what it recorded."""

    job: TrainJob
    record: Record
    with_teacher: bool


def train_students(
    run: Run, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher], plan: CachePlan
) -> list[TrainedStudent]:
    """The distilled student first, then the reference."""
    jobs = [distilled_job(run, corpus, teachers, plan)]
    if run.recipe.train.reference:
        jobs.append(reference_job(run.recipe, corpus, jobs[0]))
    key = key_of(runs=[job.run_uri.rsplit("/", 1)[-1] for job in jobs])
    if all(is_finished(job) for job in jobs):
        students = _finished(jobs)
        run.committed_outcome("train", key=key, detail=_describe(students))
        return students

    require_trackers(run.recipe.train.tracking)

    def do(meter: Meter) -> tuple[list[TrainedStudent], int, str]:
        needs = run.recipe.train.resources_per_worker
        run.session.start_for(
            "train", num_cpus=needs.num_cpus, num_gpus=needs.num_gpus, num_workers=run.recipe.train.num_workers
        )
        from kd_ray.engine.train import TrainGroup, train_group

        train, evaluate = run.recipe.train, run.recipe.evaluate
        group = TrainGroup(
            jobs=tuple(jobs),
            evaluation_policy=evaluate.policy,
            evaluation_batch_size=evaluate.batch_size_per_worker,
            resources=train.resources_per_worker,
            num_workers=train.num_workers,
        )
        train_group(
            group,
            name=f"group-{key[:12]}",
            storage_uri=join(run.storage.uri, "runs"),
            max_failures=train.max_failures,
            on_progress=show_on(meter),
            on_line=lambda line: run.console.print(f"  {line}", highlight=False, soft_wrap=True),
        )
        students = _finished(jobs)
        return students, sum(int(each.record["images"]) for each in students), _describe(students)

    return run.work("train", do, key=key)


def _finished(jobs: list[TrainJob]) -> list[TrainedStudent]:
    return [
        TrainedStudent(
            job=job,
            record=json.loads(open_storage(job.run_uri).read(RUN_FILE)),
            with_teacher=index == 0,
        )
        for index, job in enumerate(jobs)
    ]


def _describe(students: list[TrainedStudent]) -> str:
    first = students[0].record
    names = " and ".join(each.job.name for each in students)
    told = f"{names}: {first['num_parameters'] / 1e3:,.0f} k parameters, {first['num_steps']:,} steps each"
    for each in students:
        told += _describe_end(each)
    if first.get("num_rounded_views"):
        told += (
            f". WARNING: of the checked views {first['num_rounded_views']:,} differ from what the teacher saw by "
            "rounding: the images were decoded by another library here. Install what the view set records"
        )
    if first.get("snapshot"):
        told += f". {describe_missing(first['snapshot'])}"
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

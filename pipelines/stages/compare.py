"""The students of a run beside each other: measured where that is missing, and written for people and programs."""

from collections.abc import Sequence

from kd_ray.evaluate.comparison import (
    ComparedStudent,
    comparison_csv,
    comparison_json,
    over_reference,
    score_of,
)
from kd_ray.training.job import TrainJob
from pipelines.context import Run, key_of
from pipelines.stages.evaluate import Evaluation
from pipelines.stages.train import TrainedStudent

STAGE = "speed"


def compare_students(run: Run, students: Sequence[TrainedStudent], evaluation: Evaluation) -> list[ComparedStudent]:
    """Every student that follows a teacher, in the recipe's order; empty where the recipe has one alone."""
    if not run.recipe.has_many_students:
        return []
    found = []
    for each in students:
        if not each.with_teacher:
            continue
        scores = evaluation.students[each.job.name]
        scored_by, score = score_of(scores)
        reference = evaluation.students[each.reference] if each.reference is not None else None
        found.append(
            ComparedStudent(
                name=each.job.name,
                title=each.title,
                num_parameters=int(each.record["num_parameters"]),
                cpu_ms_per_image=_cpu_ms_per_image(run, each.job),
                scored_by=scored_by,
                score=score,
                over_reference=over_reference(scores, reference),
                train_seconds=float(each.record["seconds"]),
                run_uri=each.job.run_uri,
            )
        )
    return found


def write_comparison(run: Run, students: Sequence[ComparedStudent]) -> None:
    """students.csv and students.json in the run's folder."""
    run.storage.write("students.csv", comparison_csv(students).encode())
    run.storage.write("students.json", comparison_json(students).encode())


def _cpu_ms_per_image(run: Run, job: TrainJob) -> float:
    """Measured once for each network: its time does not depend on its weights."""
    student = job.student.model_dump(mode="json", include={"model", "input"})
    key = key_of(student=student, num_classes=job.num_classes)
    record = run.record(STAGE, key)
    if record is None:
        from kd_ray.evaluate.speed import cpu_ms_per_image
        from kd_ray.models import build_model, without_pretrained

        module = build_model(without_pretrained(job.student.model), num_classes=job.num_classes)
        measured = cpu_ms_per_image(module, size_px=job.student.input.size_px)
        record = {"cpu_ms_per_image": round(measured, 4)}
        run.write_record(STAGE, key, record)
    return float(record["cpu_ms_per_image"])

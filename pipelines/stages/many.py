"""Several students over one cache: what each of them is, before any work and as jobs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kd_ray.config.recipe import Recipe
from kd_ray.config.students import each_student
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import ModelError, RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.training.job import TrainJob
from pipelines.context import Run
from pipelines.stages.plan import CachePlan
from pipelines.stages.students import check_student, distilled_job, reference_job


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStudent:
    """One run of the train stage: its own `recipe`, and what people are told of its place in a grid.

    `reference` is the name of the same student trained on the labels alone, None where that is not asked for.
    """

    job: TrainJob
    recipe: Recipe
    title: str
    with_teacher: bool
    reference: str | None


def planned_students(
    run: Run, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher], plan: CachePlan
) -> list[PlannedStudent]:
    """The distilled students in the recipe's order, then the references; those that would have the same one share it.

    Raises what `distilled_job` does.
    """
    students: list[PlannedStudent] = []
    references: dict[str, PlannedStudent] = {}
    for one in each_student(run.recipe):
        job = distilled_job(replace(run, recipe=one.recipe), corpus, teachers, plan)
        reference = None
        if one.recipe.train.reference:
            # by the name that all have in common, so that it is the same run whoever asks for it
            of_it = reference_job(one.recipe, corpus, job, student_name=run.recipe.student.name)
            kept = references.setdefault(
                of_it.run_uri,
                PlannedStudent(job=of_it, recipe=one.recipe, title="", with_teacher=False, reference=None),
            )
            reference = kept.job.name
        students.append(
            PlannedStudent(job=job, recipe=one.recipe, title=one.title, with_teacher=True, reference=reference)
        )
    return [*students, *references.values()]


def check_students(recipe: Recipe, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher]) -> None:
    """Find what is wrong with any student before any teacher runs for it.

    Raises:
        ModelError, RecipeError: as `check_student`; of several students what is wrong with each.
    """
    if not recipe.has_many_students:
        check_student(recipe, corpus, teachers)
        return
    wrong = []
    for one in each_student(recipe):
        try:
            check_student(one.recipe, corpus, teachers)
        except (ModelError, RecipeError) as error:
            wrong.append(f"student {one.recipe.student.name}: {error}")
    if wrong:
        raise RecipeError("\n".join(wrong))


def student_lines(recipe: Recipe) -> Iterator[str]:
    """Who is trained, where that is several students: the count, and each by name."""
    if not recipe.has_many_students:
        return
    students = each_student(recipe)
    shape = []
    if recipe.students:
        shape.append(f"{len(recipe.students)} by name")
    if recipe.sweep is not None:
        shape.append("x".join(str(len(values)) for values in recipe.sweep.grid.values()) + " in the grid")
    yield f"students: {len(students)} ({' times '.join(shape)}), all from the same targets"
    for one in students:
        told = f": {one.title}" if one.title else ""
        yield f"  {one.recipe.student.name} ({one.recipe.student.model.title}){told}"

"""Several students over one cache: what each of them is, before any work and as jobs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kd_ray.config.recipe import Recipe
from kd_ray.config.students import each_student
from kd_ray.config.train import Mutual
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import ModelError, RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import join
from kd_ray.training.job import Together, TrainJob
from kd_ray.training.sources import CachedSource, LiveSource, PartialSource
from pipelines.context import Run, key_of
from pipelines.stages.plan import CachePlan
from pipelines.stages.students import check_student, distilled_job, reference_job

Source = Mapping[str, CachedSource] | LiveSource | PartialSource | None


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
    if run.recipe.train.mutual is not None:
        students = _together(run.recipe, students, run.recipe.train.mutual)
    return [*students, *references.values()]


def loops_of(planned: Sequence[PlannedStudent]) -> list[TrainJob]:
    """The jobs that are trained by themselves; the partner of another student is trained with that one."""
    jobs = [each.job for each in planned]
    partners = {each.run_uri for job in jobs for each in job.members[1:]}
    return [job for job in jobs if job.run_uri not in partners]


def _together(recipe: Recipe, students: Sequence[PlannedStudent], mutual: Mutual) -> list[PlannedStudent]:
    """Two students as one loop, each with the identity of both, and the second one with another start.

    Raises:
        RecipeError: a student has no loss on its logits, or the two have other classes.
    """
    for each in students:
        if not each.job.losses.train_logits:
            raise RecipeError(
                f"train.mutual: the students learn from each other's logits, but no loss of student {each.job.name} is "
                "on its own. Add kd or cross_entropy to its losses, or remove train.mutual."
            )
    if len({each.job.num_classes for each in students}) > 1:
        told = " and ".join(f"{each.job.num_classes} of {each.job.name}" for each in students)
        raise RecipeError(f"train.mutual: the students' logits are of other classes: {told}. Make their losses agree.")
    alone = [each.job.run_uri.rsplit("/", 1)[-1] for each in students]
    identity = key_of(mutual=mutual.model_dump(mode="json"), students=alone)
    first, second = (
        replace(each.job, run_uri=join(recipe.out, "runs", f"{each.job.name}-{identity[:12]}")) for each in students
    )
    # from one start, two equal networks would stay equal
    partner = replace(second, seed=second.seed + 1)
    both = replace(
        first,
        source=_of_both(first.source, second.source),
        waiting=first.waiting or second.waiting,
        together=Together(partner=partner, weight=mutual.weight, temperature=mutual.temperature),
    )
    # trained by this recipe, not by one of their own
    return [replace(each, job=job, recipe=recipe) for each, job in zip(students, (both, partner), strict=True)]


def _of_both(first: Source, second: Source) -> Source:
    """What gives the targets of both students; their recipes differ in the losses alone."""
    match first, second:
        case None, _:
            return second
        case _, None:
            return first
        case LiveSource(), LiveSource():
            return replace(
                first,
                teachers={**first.teachers, **second.teachers},
                needed=first.needed | second.needed,
                inputs={kind: {**inputs, **second.inputs[kind]} for kind, inputs in first.inputs.items()},
            )
        case Mapping(), Mapping():
            return {
                kind: replace(each, outputs={**each.outputs, **second[kind].outputs}) for kind, each in first.items()
            }
        case _:
            raise AssertionError((first, second))


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

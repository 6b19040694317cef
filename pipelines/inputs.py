"""Before any work: whether every model takes what it will be given, and sees all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from kd_ray.config.base import Section
from kd_ray.config.models import Input, Model, TimmModel
from kd_ray.config.outputs import POOLED, Layer, SummarySource
from kd_ray.config.problems import Problem, describe
from kd_ray.config.recipe import Recipe
from kd_ray.config.student import Student
from kd_ray.config.students import each_student
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import Policy
from kd_ray.errors import ModelError, RecipeError
from pipelines.context import Record, Run, key_of

STAGE = "inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One size (height, width) at which a model gets views; `path` is where the recipe says so.

    `names` and `spatial_stage` are what is asked of it, as far as that is known without the corpus.
    """

    path: str
    size_px: tuple[int, int]
    model: Model
    names: Sequence[str] = ("summary",)
    spatial_stage: int = -1
    summary_from: SummarySource = POOLED
    spatial_from: Layer | None = None


def check_inputs(run: Run, *, keep: bool) -> None:
    """Refuse a recipe with a model that cannot take its input, or would not see all of it.

    What was found in order is not looked at again: with `keep` it is recorded, for timm alone takes 4 s to import.

    Raises:
        RecipeError: patches do not divide an input; every such size is listed.
        ModelError: a model cannot be built, or does not take its size.
    """
    given = list(given_sizes(run.recipe))
    key = key_of(inputs=[_as_json(each) for each in given], models=_models(run.recipe))
    record = run.record(STAGE, key)
    if record is None:
        refuse_misfits(given, title=run.recipe.name)
        sizes = {each.path: each.size_px for each in given}
        record = {"sizes": sizes, "warnings": unlike_training(run.recipe)}
        if keep:
            run.write_record(STAGE, key, record)
    for warning in record["warnings"]:
        run.console.print(warning, markup=False, highlight=False, soft_wrap=True)


def unlike_training(recipe: Recipe) -> list[str]:
    """A warning for each pretrained model of timm that is given other pixels than it was trained with."""
    from kd_ray.models.preprocessing import differences_from_training

    inputs: dict[str, Teacher | Student] = {**recipe.teachers_by_path(), "student": recipe.student}
    found = {
        path: differences_from_training(each.model, each.input)
        for path, each in inputs.items()
        if isinstance(each.model, TimmModel)
    }
    return [
        f"WARNING: {path}.input is not what {inputs[path].model.title} was trained with: {'; '.join(differences)}."
        for path, differences in found.items()
        if differences
    ]


def _models(recipe: Recipe) -> Record:
    """All that the warnings depend on."""
    inputs: dict[str, Teacher | Student] = {**recipe.teachers_by_path(), "student": recipe.student}
    return {path: each.input.model_dump(mode="json") for path, each in inputs.items()}


def _as_json(given: Given) -> Record:
    values = {each.name: getattr(given, each.name) for each in fields(given)}
    return {
        name: value.model_dump(mode="json") if isinstance(value, Section) else value for name, value in values.items()
    }


def given_sizes(recipe: Recipe) -> Iterator[Given]:
    """Every size at which the recipe gives views to a model."""
    for path, teacher in recipe.teachers_by_path().items():
        if teacher.network is None:  # imported: nothing is computed
            continue
        # how many logits there are may be a matter of the corpus; where there is a summary, there are logits
        names = [name for name in teacher.outputs.names() if name != "logits"] or ["summary"]
        for where, size_px in _sizes_of(teacher.input, recipe.views.policy, path=f"{path}.input"):
            yield Given(
                path=where,
                size_px=size_px,
                model=teacher.network,
                names=names,
                spatial_stage=teacher.outputs.spatial_stage,
                summary_from=teacher.outputs.summary_from,
                spatial_from=teacher.outputs.spatial_from,
            )
    seen = []
    for one in each_student(recipe):
        student = one.recipe.student
        path = f"student {student.name}: input" if recipe.has_many_students else "student.input"
        for where, size_px in _sizes_of(student.input, recipe.views.policy, path=path):
            if (student.model, size_px) not in seen:  # many may be one network, trained otherwise
                seen.append((student.model, size_px))
                yield Given(path=where, size_px=size_px, model=student.model)


def _sizes_of(config: Input, policy: Policy, *, path: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where a model is evaluated, and of each kind of views whose size is not that one."""
    yield f"{path}.size_px", config.size_px
    for kind in policy.kind_names:
        size_px = config.of_kind(policy, kind).size_px
        if size_px != config.size_px:
            own = kind in config.kind_sizes_px
            yield f"{path}.kind_sizes_px.{kind}" if own else f"views.policy.kinds.{kind}.size_px", size_px


def refuse_misfits(given: Sequence[Given], *, title: str) -> None:
    """Raises what `check_inputs` does; `title` says whose sizes they are."""
    from kd_ray.models.shapes import output_shapes, uncovered_patch_px

    problems = []
    for each in given:
        patch_px = uncovered_patch_px(each.model, size_px=each.size_px)
        if patch_px is not None:
            problems.append(_misfit(each, patch_px, title=title))
    if problems:
        raise RecipeError(describe(problems))
    wrong = []
    for each in given:
        try:
            output_shapes(
                each.model,
                size_px=each.size_px,
                num_classes=None,
                names=each.names,
                spatial_stage=each.spatial_stage,
                summary_from=each.summary_from,
                spatial_from=each.spatial_from,
            )
        except ModelError as error:
            wrong.append(f"recipe {title}: {each.path}: {error}")
    if wrong:
        raise ModelError("\n".join(wrong))


def _misfit(given: Given, patch_px: tuple[int, int], *, title: str) -> Problem:
    smaller, larger = (
        [(side + more) // patch * patch for side, patch, more in zip(given.size_px, patch_px, add, strict=True)]
        for add in ((0, 0), (patch_px[0] - 1, patch_px[1] - 1))
    )
    nearest = " or ".join(str(size) for size in (smaller, larger) if all(size))
    return Problem(
        f"recipe {title}",
        given.path,
        f"got {list(given.size_px)}",
        f"{given.model.title} cuts its input into patches of {patch_px[0]}x{patch_px[1]} px and would not see what is "
        f"left over; the nearest sizes that it sees whole are {nearest} (where model.args has img_size, there too)",
    )

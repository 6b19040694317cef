"""How much a recipe asks for: exactly where its corpus is packed and its teachers are at hand, else counted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from kd_ray.cache.codecs import Coding
from kd_ray.config.corpus import HashSplit, PathSplit
from kd_ray.config.models import ImportedModel, TimmModel
from kd_ray.config.recipe import Recipe
from kd_ray.config.teacher import Teacher
from kd_ray.corpus.format import read_identity
from kd_ray.corpus.packed import PackedCorpus, finished_packings
from kd_ray.corpus.packing.pack import list_sources
from kd_ray.errors import CorpusError
from kd_ray.extraction.cost import TargetVolume
from kd_ray.storage import open_storage
from pipelines.context import Run
from pipelines.stages.finetune import known_teacher, num_classes_of, teacher_shapes, teachers_at_hand
from pipelines.stages.pack import opened_corpus
from pipelines.stages.plan import CachePlan, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Samples by split and what is stored of them; `plan` is None where it cannot be said which targets are missing.

    `notes` say what is estimated, and why.
    """

    num_train: int
    num_test: int
    num_classes: int | None
    teacher_classes: Mapping[str, int | None]
    volumes: tuple[TargetVolume, ...]
    plan: CachePlan | None
    notes: tuple[str, ...]


def count_volumes(run: Run) -> Counted:
    """Nothing is packed, trained or written.

    Raises:
        CorpusError: nothing is packed, and only packing can tell how many images the source has.
    """
    recipe = run.recipe
    storage = open_storage(recipe.corpus.packed_uri)
    if read_identity(storage) is None or not finished_packings(storage):
        return _of_sources(recipe)
    corpus = opened_corpus(recipe.corpus)
    absent = [name for name, config in recipe.all_teachers().items() if not _is_at_hand(run, corpus, name, config)]
    if not absent:
        plan = make_plan(recipe, corpus, teachers_at_hand(run, corpus))
        return Counted(
            num_train=corpus.num_samples("train"),
            num_test=corpus.num_samples("test"),
            num_classes=len(corpus.classes) or None,
            teacher_classes={name: num_classes_of(config, corpus) for name, config in recipe.all_teachers().items()},
            volumes=tuple(volumes_of(plan)),
            plan=plan,
            notes=(),
        )
    classes = {name: num_classes_of(config, corpus) for name, config in recipe.all_teachers().items()}
    counted = {"train": corpus.num_samples("train"), "test": corpus.num_samples("test")}
    waiting = (
        f"{', '.join(absent)}: not there yet (to be finetuned or imported), so everything counts as missing, and how "
        "it is cut into units is not known."
    )
    return _estimated(recipe, counted, classes, num_classes=len(corpus.classes) or None, notes=(waiting,))


def volumes_of(plan: CachePlan) -> Iterator[TargetVolume]:
    """Of a plan, by teacher and view set."""
    for each in plan.all:
        views = each.view_set
        yield TargetVolume(
            teacher=each.job.teacher_name,
            views_of=f"{views.split} ({views.policy.name})",
            is_training=views.split == "train",
            num_views=each.forwards_total,
            # neither those of a calibration, which come on top, nor units of which only the views are missing
            num_missing_views=min(each.forwards_missing, views.views_in(each.missing)),
            num_units=len(views.units),
            codings={name: Coding.from_identity(spec.identity) for name, spec in each.job.outputs.items()},
        )


def _is_at_hand(run: Run, corpus: PackedCorpus, name: str, config: Teacher) -> bool:
    if config.finetune is None and not isinstance(config.model, ImportedModel):
        return True
    return known_teacher(run, corpus, name, config) is not None


def _of_sources(recipe: Recipe) -> Counted:
    listed = list_sources(recipe.corpus)
    split = recipe.corpus.split
    if listed.num_inputs is None:
        raise CorpusError(
            f"{recipe.corpus.packed_uri}: nothing is packed there yet, and of its source only packing can tell how "
            "many images it holds. Run the pack stage first: kd-ray run RECIPE --stages pack."
        )
    counted = {"train": listed.num_inputs, "test": 0}
    match split:
        case HashSplit():
            counted["test"] = round(listed.num_inputs * split.test_fraction)
            counted["train"] = listed.num_inputs - counted["test"] - round(listed.num_inputs * split.val_fraction)
        case PathSplit():
            for name in counted:
                counted[name] = sum(task.extent.num_inputs or 0 for task in listed.tasks if task.extent.split == name)
    names = set(chain.from_iterable(listed.class_names))
    classes = {name: _classes_before_packing(config, len(names)) for name, config in recipe.all_teachers().items()}
    note = (
        f"nothing is packed yet: {listed.num_inputs:,} images are listed, of which packing may leave some out "
        "(damaged, filtered, equal)."
    )
    return _estimated(recipe, counted, classes, num_classes=len(names) or None, notes=(note,))


def _classes_before_packing(config: Teacher, num_named: int) -> int | None:
    if config.num_classes is not None:
        return config.num_classes
    own = isinstance(config.model, TimmModel) and config.model.pretrained and config.finetune is None
    return None if own else num_named or None


def _estimated(
    recipe: Recipe,
    counted: Mapping[str, int],
    classes: Mapping[str, int | None],
    *,
    num_classes: int | None,
    notes: tuple[str, ...],
) -> Counted:
    volumes: list[TargetVolume] = []
    told = list(notes)
    for name, config in recipe.all_teachers().items():
        if config.network is None:
            told.append(f"{name}: imported, nothing to compute.")
            continue
        names = config.outputs.names()
        own_classes = isinstance(config.model, TimmModel) and config.model.pretrained and config.finetune is None
        if classes[name] is None and not own_classes and "logits" in names:
            told.append(f"{name}: how many logits there are is not known before packing; they are left out.")
            names = tuple(output for output in names if output != "logits")
        volumes += _volumes_of_teacher(recipe, name, config, names, counted=counted, num_classes=classes[name])
    return Counted(
        num_train=counted["train"],
        num_test=counted["test"],
        num_classes=num_classes,
        teacher_classes=classes,
        volumes=tuple(volumes),
        plan=None,
        notes=tuple(told),
    )


def _volumes_of_teacher(
    recipe: Recipe,
    name: str,
    config: Teacher,
    names: tuple[str, ...],
    *,
    counted: Mapping[str, int],
    num_classes: int | None,
) -> Iterator[TargetVolume]:
    policy = recipe.views.policy
    seen = [
        (f"train ({policy.of_kind(kind).name})", kind, names, counted["train"] * recipe.views.num_views(kind))
        for kind in policy.kind_names
        if recipe.train.targets == "cached"
    ]
    if "logits" in names:
        seen.append((f"test ({recipe.evaluate.policy.name})", "", ("logits",), counted["test"]))
    for views_of, kind, outputs, num_views in seen:
        is_training = views_of.startswith("train")
        input = config.input.of_kind(policy, kind) if is_training else config.input
        shapes = teacher_shapes(config, outputs, num_classes=num_classes, size_px=input.size_px)
        codings = {output: Coding.of(config.outputs.stored_as(output), shapes[output]) for output in outputs}
        yield TargetVolume(
            teacher=name,
            views_of=views_of,
            is_training=is_training,
            num_views=num_views,
            num_missing_views=num_views,
            num_units=None,
            codings=codings,
        )

"""`kd-ray cache import`: features that were computed elsewhere as the targets of a recipe's imported teacher."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Span
from kd_ray.config.crops import ResizePad
from kd_ray.config.locations import with_absolute_locations
from kd_ray.config.recipe import Recipe
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import CenterCrop
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.features import Features
from kd_ray.extraction.importing import Importer, Layout, Survey, calibrate, import_unit
from kd_ray.extraction.job import build_renderer
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.repair import path_of_output
from kd_ray.storage import open_storage, redacted
from kd_ray.telemetry.progress import meter
from pipelines.cache.told import print_json
from pipelines.stages.imported import known_import
from pipelines.stages.pack import opened_corpus
from pipelines.stages.plan import make_plan

PLAIN = (CenterCrop, ResizePad)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """Where the files are, and what is in them; `replayed` says that they are of the very views that are drawn."""

    features_uri: str
    teacher: str | None = None
    mapping_uri: str | None = None
    key: str | None = None
    grid: str | None = None
    replayed: bool = False


def import_features(recipe: Recipe, request: ImportRequest, *, console: Console, as_json: bool) -> None:
    """Look at every file, then commit what is not committed yet.

    Raises:
        RecipeError: the recipe does not say what the features are, or has views that were not theirs.
        CorpusError: features are missing or cannot be used; nothing was written.
    """
    recipe = with_absolute_locations(recipe, base=Path.cwd())
    name, config = _imported(recipe, request)
    _refuse_random(recipe, request)
    corpus = opened_corpus(recipe.corpus)
    (output,) = config.outputs.names()
    importer = Importer(
        corpus=corpus,
        features=_features(request),
        layout=Layout(output=output, num_views=recipe.views.count, grid=_grid(request, output)),
    )
    shown = Console(stderr=True) if as_json else console
    survey = _survey(importer, corpus, console=shown)
    known = known_import(name, config, digest=survey.digest, shape=survey.shape)
    (plan,) = make_plan(recipe, corpus, {name: known}).all
    _commit(plan, importer, survey, output=output, console=shown)
    path = path_of_output(plan, plan.job.outputs[output])
    if as_json:
        told = {"name": path, "digest": survey.digest, "shape": survey.shape, "samples": len(survey.digests)}
        print_json({**told, "units": len(plan.view_set.units), "units_written": len(plan.missing)})
        return
    console.print(
        f"{path}: {len(survey.digests):,} samples, {len(plan.missing)} of {len(plan.view_set.units)} units written "
        f"now; digest {survey.digest[:12]}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _survey(importer: Importer, corpus: PackedCorpus, *, console: Console) -> Survey:
    spans = [
        Span(shard=shard.name, group_start=group, group_stop=group + 1)
        for shard in corpus.shards("train")
        for group in range(len(shard.rows_per_group))
    ]
    total, done = corpus.num_samples("train"), 0
    with meter(console, "reading", unit="samples") as progress:

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done, total=total)

        return importer.survey(spans, report=report)


def _commit(plan: TargetPlan, importer: Importer, survey: Survey, *, output: str, console: Console) -> None:
    if not plan.missing:
        return
    job = plan.job
    renderer = build_renderer(job)
    opened = open_output(job.cache_uri, job.target_set, job.outputs[output], create=True)
    calibrate(plan.view_set.units[0], importer=importer, survey=survey, output=opened)
    attempt = uuid.uuid4().hex
    with meter(console, "importing", unit="units") as progress:
        for number, unit in enumerate(plan.missing, start=1):
            import_unit(unit, importer=importer, survey=survey, renderer=renderer, output=opened, attempt=attempt)
            progress.update(number, total=len(plan.missing))


def _imported(recipe: Recipe, request: ImportRequest) -> tuple[str, Teacher]:
    """The recipe's imported teacher, the one that is named where there are several."""
    imported = {name: each for name, each in recipe.all_teachers().items() if each.network is None}
    found = {name: each for name, each in imported.items() if request.teacher in (None, name)}
    if len(found) != 1:
        asked = "" if request.teacher is None else f" called {request.teacher}"
        raise RecipeError(
            f"recipe {recipe.name}: got {len(found)} imported teachers{asked} ({', '.join(imported) or 'none'}), "
            "expected one. Give the teacher model: {kind: imported, name: …}, and --teacher where there are several."
        )
    return next(iter(found.items()))


def _refuse_random(recipe: Recipe, request: ImportRequest) -> None:
    """Nobody else has computed features of views that are drawn here, unless from those very views."""
    policy = recipe.views.policy
    is_plain = policy.mix is None and all(isinstance(each, PLAIN) for each in policy.operations)
    if is_plain and recipe.views.count > 1:
        raise RecipeError(
            f"views.count: got {recipe.views.count}, but every view of {policy.name} is the same. Set views.count=1."
        )
    if not is_plain and not request.replayed:
        raise RecipeError(
            f"views.policy: {policy.name} draws at random, and features of other views would teach something wrong. "
            "State what the images went through: operations: [{kind: center_crop}] and the like. Or give --replayed, "
            "where the features were computed from these very views, rendered by kd_ray."
        )


def _features(request: ImportRequest) -> Features:
    mapping = None
    if request.mapping_uri is not None:
        folder, _, name = request.mapping_uri.rpartition("/")
        try:
            data = open_storage(folder or ("/" if request.mapping_uri.startswith("/") else ".")).read(name)
        except FileNotFoundError as error:
            raise RecipeError(f"--mapping: {redacted(request.mapping_uri)} does not exist.") from error
        mapping = (request.mapping_uri, data)
    return Features.of(open_storage(request.features_uri), mapping=mapping, key=request.key)


def _grid(request: ImportRequest, output: str) -> tuple[int, int] | None:
    if request.grid is None:
        return None
    height, _, width = request.grid.partition("x")
    if output == "spatial" and height.isdecimal() and width.isdecimal() and int(height) * int(width):
        return int(height), int(width)
    raise RecipeError(
        f"--grid: got {request.grid} for {output}, expected height and width of a spatial output, as 16x16."
    )

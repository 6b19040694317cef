"""`kd-ray cache verify --deep`: random targets of a recipe's teachers computed again, here, without Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from kd_ray.cache.catalog import Catalog
from kd_ray.cache.findings import Finding
from kd_ray.cache.records import read_records
from kd_ray.cache.spec import explain_absence
from kd_ray.cache.target_set import TARGET_SET_FILE
from kd_ray.config.load import load_recipe
from kd_ray.config.locations import with_absolute_locations
from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.deep import Deep, Recomputation, Stored, draw_targets
from kd_ray.extraction.job import load_frozen
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.repair import path_of_output, path_of_views
from kd_ray.storage import join, open_storage, redacted
from kd_ray.telemetry.progress import Meter, meter
from pipelines.cache.recipe_plan import plan_of

Findings = Mapping[str, tuple[Finding, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepRequest:
    """The recipe that the targets were made by, and how many of each target set to compute again, chosen by `seed`.

    `tolerance` is in deviations of an output; None is that of the teacher's precision.
    """

    recipe: Path
    overrides: tuple[str, ...] = ()
    num_samples: int = 64
    seed: int = 0
    tolerance: float | None = None
    device: str = "cpu"


def verify_deep(catalog: Catalog, name: str | None, request: DeepRequest, known: Findings, *, console: Console) -> Deep:
    """What is wrong with the targets looked at; units that `known` has something against are left out.

    Raises:
        RecipeError: the recipe makes nothing of this cache, or nothing of that name.
        KdRayError: its corpus or its teachers cannot be loaded.
    """
    _check(request)
    recipe = load_recipe(request.recipe, list(request.overrides))
    recipe = with_absolute_locations(recipe, base=Path.cwd())
    recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"uri": catalog.uri})})
    corpus, plan = plan_of(recipe)
    able = [each for each in plan.all if each.job.teacher.network is not None]
    plans = [(each, found) for each in able if (found := _stored(catalog, each, name, known)) is not None]
    if not plans:
        raise RecipeError(_nothing(catalog, recipe, [*plan.all], name))
    deep = Deep()
    with meter(console, "computing", unit="targets") as progress:
        for each, stored in plans:
            _check_one(each, stored, corpus, request, deep, progress=progress)
    return deep


def _check_one(
    plan: TargetPlan, stored: Stored, corpus: PackedCorpus, request: DeepRequest, deep: Deep, *, progress: Meter
) -> None:
    commits = [stored.view_commits[unit] for unit in stored.units]
    if not commits:
        return
    key = ("deep", request.seed, plan.job.target_set.fingerprint)
    recomputation = Recomputation(
        plan.job,
        stored,
        corpus=corpus,
        load=partial(
            load_frozen, plan.job, device=request.device, batch_size=plan.job.teacher.resources.batch_size_per_worker
        ),
        tolerance=request.tolerance,
    )
    recomputation.check(
        draw_targets(commits, request.num_samples, key=key), deep, report=lambda _: progress.update(deep.num_targets)
    )


def _stored(catalog: Catalog, plan: TargetPlan, name: str | None, known: Findings) -> Stored | None:
    """What the cache has of a plan, and is sound; None where it has none of its outputs."""
    views_path = path_of_views(plan)
    paths = [path_of_output(plan, spec) for spec in plan.job.outputs.values()]
    outputs = {path: catalog.outputs[path] for path in paths if path in catalog.outputs and (name or "") in path}
    if not outputs or views_path not in catalog.view_sets:
        return None
    bad = {path: {each.unit for each in known.get(path, ())} for path in (views_path, *outputs)}
    views = catalog.view_sets[views_path]
    view_commits = read_records(views.collection).newest
    return Stored(
        views_path=views_path,
        views=views,
        view_commits={unit: commit for unit, commit in view_commits.items() if unit not in bad[views_path]},
        outputs=outputs,
        commits={
            path: {
                unit: commit for unit, commit in read_records(output.collection).newest.items() if unit not in bad[path]
            }
            for path, output in outputs.items()
        },
    )


def _nothing(catalog: Catalog, recipe: Recipe, plans: list[TargetPlan], name: str | None) -> str:
    if not plans:
        return (
            f"recipe {recipe.name}: train.targets is live, so nothing of it is in a cache. Give the recipe of a cache."
        )
    if all(plan.job.teacher.network is None for plan in plans):
        return (
            f"recipe {recipe.name}: its teacher was imported, and no network can compute its targets again. Run verify "
            "without --deep: what was imported is under checksums."
        )
    paths = [path_of_output(plan, spec) for plan in plans for spec in plan.job.outputs.values()]
    if any(path in catalog.outputs for path in paths):
        return (
            f"{redacted(catalog.uri)}: recipe {recipe.name} has nothing called {name} here; what it has is "
            f"{', '.join(path for path in paths if path in catalog.outputs)}. Give one of these, or a part of its name."
        )
    targets = open_storage(join(catalog.uri, "targets"))
    reasons = {explain_absence(targets, plan.job.target_set, file_name=TARGET_SET_FILE) for plan in plans}
    return (
        f"recipe {recipe.name} makes nothing that this cache holds. {'. '.join(sorted(reasons))}. Give the recipe that "
        "it was made by (kd-ray cache diff tells all differences)."
    )


def _check(request: DeepRequest) -> None:
    if request.num_samples < 1:
        raise RecipeError(f"--samples: got {request.num_samples}, expected at least 1. Leave it out for 64.")
    import torch

    try:
        torch.empty(0, device=request.device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without it
        raise RecipeError(f"--device: got {request.device}, which torch cannot use here: {error}. Give cpu.") from error
    if request.tolerance is not None and not 0 <= request.tolerance < float("inf"):
        raise RecipeError(f"--tolerance: got {request.tolerance}, expected deviations of the output, 0 or more.")

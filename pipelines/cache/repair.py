"""`kd-ray cache repair`: verify what a recipe uses of its cache, and compute exactly what is bad again."""

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kd_ray.cache.catalog import Catalog, Entry, read_catalog
from kd_ray.cache.check_manifest import check_manifest, fold_again
from kd_ray.cache.findings import Finding
from kd_ray.cache.units import Unit
from kd_ray.cache.verify import check_unit
from kd_ray.config.locations import with_absolute_locations
from kd_ray.config.recipe import Recipe
from kd_ray.engine.session import RaySession
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.repair import Repairs, path_of_output, path_of_views, repairing, repairs_of
from kd_ray.storage import is_remote, open_storage
from kd_ray.telemetry.events import EventLog
from pipelines.cache.told import EXIT_FOUND, findings_json, print_findings, print_json
from pipelines.cache.verify import verify_with_progress
from pipelines.context import Run
from pipelines.stages.extract import extract_targets
from pipelines.stages.finetune import prepare_teachers
from pipelines.stages.pack import pack_corpus
from pipelines.stages.plan import CachePlan, make_plan

STAGES = ("pack", "finetune", "plan", "repair")


def repair_cache(recipe: Recipe, *, console: Console, as_json: bool) -> int:
    """The exit status: 0 where all is whole in the end, EXIT_FOUND where something cannot be computed again.

    Raises:
        KdRayError: anything a user can cause.
    """
    recipe = with_absolute_locations(recipe, base=Path.cwd())
    progress_console = Console(stderr=True) if as_json else console
    with RaySession(recipe.cluster) as session:
        run = Run(
            recipe=recipe,
            storage=open_storage(recipe.out),
            console=progress_console,
            session=session,
            events=EventLog(None if is_remote(recipe.out) else Path(recipe.out) / "events.jsonl"),
            stages=STAGES,
        )
        corpus = pack_corpus(run)
        teachers = prepare_teachers(run, corpus)
        catalog = read_catalog(recipe.cache.uri)
        # a part that cannot be read stops the planning already
        refolded = fold_again(
            catalog, {path: [*check_manifest(each.collection, None)] for path, each in catalog.entries.items()}
        )
        plan = make_plan(recipe, corpus, teachers)
        wanted = _wanted(plan)
        entries = {path: entry for path, entry in catalog.entries.items() if path in wanted}
        findings = verify_with_progress(catalog, entries, console=progress_console).findings
        if contradicting := fold_again(catalog, findings):
            plan = make_plan(recipe, corpus, teachers)
        refolded |= contradicting
        repairs = repairs_of(findings, {path: entry.collection for path, entry in entries.items()}, wanted=wanted)
        print_findings(progress_console, (each for found in findings.values() for each in found))
        if repairs.num_units:
            extract_targets(run, _repaired(plan, repairs), stage="repair")
        left = [*_not_repaired(findings, repairs, refolded), *_still_bad(catalog, repairs)]
        forwards = run.counts["extract/teacher_forwards"]
    if as_json:
        print_json(
            {
                "repaired": {
                    path: {unit.id: generation for unit, generation in units.items()}
                    for path, units in repairs.generations.items()
                },
                "parts_folded_again": sorted(each.location for each in refolded),
                "teacher_forwards": forwards,
                "findings": findings_json(left),
            }
        )
    else:
        console.print(_last_line(repairs, refolded, forwards, left), highlight=False)
        print_findings(console, left)
    return EXIT_FOUND if left else 0


def _wanted(plan: CachePlan) -> dict[str, frozenset[Unit]]:
    """The units of the recipe's plan by the path of their view set or output."""
    wanted: dict[str, frozenset[Unit]] = {}
    for each in plan.all:
        units = frozenset(each.view_set.units)
        for path in (path_of_views(each), *(path_of_output(each, spec) for spec in each.job.outputs.values())):
            wanted[path] = wanted.get(path, frozenset()) | units
    return wanted


def _repaired(plan: CachePlan, repairs: Repairs) -> CachePlan:
    def of(plans: Mapping[str, TargetPlan]) -> dict[str, TargetPlan]:
        return {name: repairing(each, repairs) for name, each in plans.items()}

    training = {kind: of(plans) for kind, plans in plan.training.items()}
    return replace(plan, training=training, evaluation=of(plan.evaluation))


def _not_repaired(
    findings: Mapping[str, tuple[Finding, ...]], repairs: Repairs, refolded: Set[Finding]
) -> list[Finding]:
    return [
        each
        for path, found in findings.items()
        for each in found
        if (each.unit is None or each.unit not in repairs.generations.get(path, {})) and each not in refolded
    ]


def _still_bad(catalog: Catalog, repairs: Repairs) -> list[Finding]:
    """What is wrong with the units that were just written."""
    entries: Mapping[str, Entry] = catalog.entries
    return [
        finding
        for path, units in repairs.generations.items()
        for unit, generation in units.items()
        for finding in check_unit(entries[path], entries[path].collection.read(unit, generation))
    ]


def _last_line(repairs: Repairs, refolded: Set[Finding], forwards: int, left: list[Finding]) -> str:
    if not repairs.num_units and not refolded and not left:
        return "nothing to repair"
    told = f"{repairs.num_units} units computed again with {forwards:,} teacher forwards"
    if refolded:
        told += f", {len(refolded)} bad parts of manifests folded again"
    return f"{told}; {len(left)} findings are left:" if left else told

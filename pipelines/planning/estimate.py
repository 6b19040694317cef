"""The whole plan as numbers: what `--json` prints, what the tables show, and what a run keeps beside its outputs."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isinf
from typing import Any

from kd_ray.config.rates import Rates
from kd_ray.config.recipe import Recipe
from kd_ray.extraction.alternatives import Alternative, alternatives
from kd_ray.extraction.cost import (
    AcceleratorCost,
    BreakEven,
    TargetVolume,
    accelerator_cost,
    break_even,
    extraction_seconds_per_view,
    student_epoch_seconds,
    teacher_idle_share,
)
from kd_ray.storage import digest_of_json
from pipelines.planning.timing import Timed
from pipelines.planning.volumes import Counted

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """All that can be said; what was not timed has no hours and no `break_even`."""

    recipe: Recipe
    counted: Counted
    timed: Timed | None
    accelerators: tuple[AcceleratorCost, ...]
    seconds_per_view: Mapping[str, float]
    planned_student_epochs: float
    break_even: BreakEven | None
    alternatives: tuple[Alternative, ...]
    student_epoch_s: float | None
    notes: tuple[str, ...]


def estimate(recipe: Recipe, counted: Counted, timed: Timed | None, rates: Rates | None) -> Estimate:
    """Put together what was counted with what was timed or given; hours are of the views that are missing."""
    notes = [*counted.notes, *(timed.notes if timed is not None else ())]
    measured = {} if timed is None else _seconds_per_view(recipe, timed)
    costs = list(_accelerator_costs(recipe, counted, timed, rates, measured, notes))
    fastest = {name: min(each.hours for each in costs if each.teacher == name) for name in {c.teacher for c in costs}}
    missing = {name: sum(each.num_missing_views for each in _of(counted, name)) for name in fastest}
    seconds = {name: fastest[name] * 3600 / missing[name] for name in fastest if missing[name]} or dict(measured)
    return Estimate(
        recipe=recipe,
        counted=counted,
        timed=timed,
        accelerators=tuple(costs),
        seconds_per_view=measured,
        planned_student_epochs=_planned_epochs(recipe, counted),
        break_even=None if timed is None else _break_even(recipe, counted, timed),
        alternatives=tuple(
            alternatives(counted.volumes, views_per_sample=recipe.views.count, seconds_per_view=seconds)
        ),
        student_epoch_s=_epoch_s(recipe, counted, timed, rates),
        notes=tuple(notes),
    )


def rates_key(recipe: Recipe) -> str:
    """A digest of what the timed rates depend on: another recipe's must not be taken for this one's."""
    parts = {
        "teachers": {name: each.model_dump(mode="json") for name, each in recipe.all_teachers().items()},
        "views": recipe.views.model_dump(mode="json"),
        "student": recipe.student.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json", include={"global_batch_size", "num_workers"}),
    }
    return digest_of_json(parts)


def document(made: Estimate) -> Document:
    """As JSON; seconds, bytes, hours and views are in the names."""
    counted, timed = made.counted, made.timed
    units = [each.num_units for each in counted.volumes]
    objects = [each.num_objects for each in counted.volumes]
    return {
        "recipe": made.recipe.name,
        "rates_key": rates_key(made.recipe),
        "is_counted_before_packing_or_finetuning": counted.plan is None,
        "num_train_samples": counted.num_train,
        "num_test_samples": counted.num_test,
        "num_views": sum(each.num_views for each in counted.volumes),
        "num_missing_views": sum(each.num_missing_views for each in counted.volumes),
        "num_bytes": sum(each.num_bytes for each in counted.volumes),
        "num_missing_bytes": sum(each.num_missing_bytes for each in counted.volumes),
        "num_units": None if None in units else sum(each or 0 for each in units),
        "num_objects": None if None in objects else sum(each or 0 for each in objects),
        "targets": [_volume(each) for each in counted.volumes],
        "accelerators": [asdict(each) for each in made.accelerators],
        "seconds_per_view": dict(made.seconds_per_view),
        "view_costs": {} if timed is None else {name: asdict(cost) for name, cost in timed.costs.items()},
        "teacher_idle_share": {}
        if timed is None
        else {
            name: round(teacher_idle_share(cost, seconds_per_view=made.seconds_per_view[name]), 4)
            for name, cost in timed.costs.items()
        },
        "storage": None if timed is None else asdict(timed.storage),
        "student_epoch_s": made.student_epoch_s,
        "break_even": None if made.break_even is None else _as_json(made.break_even),
        "alternatives": [asdict(each) for each in made.alternatives],
        "notes": list(made.notes),
    }


def _volume(each: TargetVolume) -> Document:
    return {
        "teacher": each.teacher,
        "views_of": each.views_of,
        "num_views": each.num_views,
        "num_missing_views": each.num_missing_views,
        "num_units": each.num_units,
        "num_objects": each.num_objects,
        "codecs": {name: coding.codec for name, coding in each.codings.items()},
        "shapes": {name: list(coding.shape) for name, coding in each.codings.items()},
        "bytes_per_view": each.bytes_per_view,
        "num_bytes": each.num_bytes,
    }


def _as_json(each: BreakEven) -> Document:
    """An infinite number is no JSON: null."""
    needed = each.student_epochs
    return {**asdict(each), "student_epochs": None if isinf(needed) else needed, "pays": each.pays}


def _of(counted: Counted, teacher: str) -> list[TargetVolume]:
    return [each for each in counted.volumes if each.teacher == teacher]


def _seconds_per_view(recipe: Recipe, timed: Timed) -> dict[str, float]:
    found = {}
    for name, cost in timed.costs.items():
        resources = recipe.all_teachers()[name].resources
        found[name] = extraction_seconds_per_view(
            cost,
            views_per_decode=views_per_decode(recipe),
            num_threads=max(int(resources.num_cpus), 1),
            num_cores=os.cpu_count() or 1,
            num_workers=resources.min_workers,
        )
    return found


def views_per_decode(recipe: Recipe) -> int:
    """Views of a sample in one unit at most, which are rendered from one decoded image."""
    views = recipe.views.num_views(recipe.views.policy.kind_names[0])
    return min(views, recipe.cache.unit_views or views)


def _accelerator_costs(
    recipe: Recipe,
    counted: Counted,
    timed: Timed | None,
    rates: Rates | None,
    measured: Mapping[str, float],
    notes: list[str],
) -> list[AcceleratorCost]:
    costs = []
    for name, teacher in recipe.all_teachers().items():
        num_views = sum(each.num_missing_views for each in _of(counted, name))
        if name in measured and timed is not None:
            speed = 1 / measured[name]
            costs.append(
                accelerator_cost(name, timed.accelerator, num_views=num_views, views_per_s=speed, price_per_hour=None)
            )
        for accelerator, rate in ({} if rates is None else rates.accelerators).items():
            given = rate.views_per_s.get(name)
            if given is None:
                notes.append(f"{name}: the rates say nothing of it on {accelerator}.")
                continue
            priced = teacher.resources.accelerators.get(accelerator)
            price = rate.price_per_hour
            if price is None and priced is not None:
                price = priced.price_per_hour
            costs.append(
                accelerator_cost(name, accelerator, num_views=num_views, views_per_s=given, price_per_hour=price)
            )
    unpriced = sorted({each.accelerator for each in costs if each.price is None})
    if unpriced:
        notes.append(f"no price is known of {', '.join(unpriced)}: hours only.")
    return costs


def _break_even(recipe: Recipe, counted: Counted, timed: Timed) -> BreakEven | None:
    if recipe.train.targets == "live":
        return None
    policy = recipe.views.policy
    crops = sum(policy.num_crops(kind) for kind in policy.kind_names)
    return break_even(
        counted.volumes,
        timed.costs,
        views_per_epoch=counted.num_train * crops,
        views_per_decode=views_per_decode(recipe),
        planned_student_epochs=_planned_epochs(recipe, counted),
    )


def _planned_epochs(recipe: Recipe, counted: Counted) -> float:
    """Of the one student of the recipe that follows a teacher, in passes over the training samples."""
    return recipe.train.num_steps(counted.num_train) * recipe.train.global_batch_size / max(counted.num_train, 1)


def _epoch_s(recipe: Recipe, counted: Counted, timed: Timed | None, rates: Rates | None) -> float | None:
    workers = recipe.train.num_workers
    if rates is not None and rates.student_images_per_s is not None:
        return counted.num_train / rates.student_images_per_s / workers
    if timed is None:
        return None
    return student_epoch_seconds(
        num_images=counted.num_train,
        step_s_per_image=timed.step_s_per_image,
        prepare_s_per_image=timed.prepare_s_per_image,
        num_threads=max(int(recipe.train.resources_per_worker.num_cpus), 1),
        num_workers=workers,
    )

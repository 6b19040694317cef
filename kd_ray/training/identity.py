"""What makes two training runs the same run: a fingerprint over everything that decides the student's weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_ray.cache.order import Order
from kd_ray.cache.spec import Spec
from kd_ray.cache.transforms import FrozenTransform
from kd_ray.config.recipe import Recipe
from kd_ray.config.train import Train
from kd_ray.config.views import NAMELESS, Policy
from kd_ray.storage import digest_of_json
from kd_ray.training.loading import TargetKey
from kd_ray.training.missing import Missing

TRAINING_VERSION = 1  # goes up when the same recipe is to give another student

# What changes how fast a run goes or what it tells on the way, and nothing of its result.
SPEED_ONLY = {
    "resources_per_worker",
    "log_every_steps",
    "evaluate_every_steps",
    "checkpoint_every_steps",
    "max_failures",
    "max_parallel_students",
    "reference",
    "tracking",
    "wait_limit_s",
    "missing_targets",  # what it leaves out or computes live is told by the spans and `live`
}


def distilled_fingerprint(
    recipe: Recipe,
    *,
    corpus_id: str,
    order: Order,
    views: Mapping[str, Spec],
    targets: Mapping[str, Mapping[TargetKey, tuple[Spec, Spec]]],
    student_weights: str | None,
    transforms: Mapping[int, FrozenTransform] | None = None,
    live: Mapping[str, Missing] | None = None,
    covers: Sequence[Mapping[int, Any]] = (),
) -> str:
    """Of a student that follows teachers; `views` and `targets` (target set, output) are by kind of view, as is what is
    computed `live` beside them; `student_weights` is the file's version, `transforms` are by the index of the loss.
    """
    return digest_of_json(
        {
            **_shared(recipe, corpus_id=corpus_id, order=order, student_weights=student_weights),
            "spans": [
                [each.span.shard, each.span.group_start, each.span.group_stop]
                for source in order.sources
                for each in source.spans
            ],
            **_seen(recipe.views.policy, views, targets),
            **({"num_views": recipe.views.count} if recipe.train.views == "cached" else {}),
            # the version is in `train`
            **({"transforms": {str(index): each.digest for index, each in transforms.items()}} if transforms else {}),
            "train": recipe.train.model_dump(mode="json", exclude=_speed_only(recipe.train)),
            **({"covers": [{str(i): each for i, each in of.items()} for of in covers]} if any(covers) else {}),
            **({"live": {kind: each.to_json() for kind, each in live.items()}} if live else {}),
        }
    )


def _seen(
    policy: Policy, views: Mapping[str, Spec], targets: Mapping[str, Mapping[TargetKey, tuple[Spec, Spec]]]
) -> dict[str, Any]:
    """The views and targets; of a policy without kinds and repeats in the form that is older than these."""
    seen: dict[str, dict[str, Any]] = {
        kind: {
            "views": views[kind].fingerprint,
            "targets": [[*key, of.fingerprint, output.fingerprint] for key, (of, output) in sorted(of_kind.items())],
        }
        for kind, of_kind in targets.items()
    }
    repeats = {"repeats": policy.repeats} if policy.repeats > 1 else {}
    if not policy.kinds:
        return {**seen[NAMELESS], **repeats}
    given = {kind: {"num_crops": policy.num_crops(kind), "size_px": policy.size_px(kind)} for kind in policy.kinds}
    # as a list: their order decides which views the network sums first
    return {"kinds": [{"kind": kind, **given[kind], **seen[kind]} for kind in policy.kinds], **repeats}


def reference_fingerprint(
    recipe: Recipe, *, corpus_id: str, order: Order, student_weights: str | None, num_steps: int
) -> str:
    """Of the same student without a teacher, which takes as many steps; losses and targets do not matter to it."""
    irrelevant = {
        *_speed_only(recipe.train),
        "losses",
        "balance",
        "teacher_dropout",
        "targets",
        "views",
        "epochs",
        "steps_per_epoch",
        "max_steps",
    }
    return digest_of_json(
        {
            **_shared(recipe, corpus_id=corpus_id, order=order, student_weights=student_weights),
            "samples": order.num_samples,
            "policy": recipe.views.policy.model_dump(mode="json"),
            "view_seed": recipe.views.seed,
            "train": recipe.train.model_dump(mode="json", exclude=irrelevant),
            "num_steps": num_steps,
        }
    )


def _speed_only(train: Train) -> set[str]:
    """Evaluations decide where a run stops, or what is averaged, where the recipe says so."""
    decides = train.early_stopping is not None or train.average_best is not None
    return SPEED_ONLY - {"evaluate_every_steps"} if decides else SPEED_ONLY


def _shared(recipe: Recipe, *, corpus_id: str, order: Order, student_weights: str | None) -> dict[str, Any]:
    return {
        "version": TRAINING_VERSION,
        "corpus": corpus_id,
        "sources": [[source.name, source.weight, len(source.spans)] for source in order.sources],
        "labels": recipe.labels.model_dump(mode="json"),
        "student": recipe.student.model_dump(mode="json"),
        "student_weights": student_weights,
    }

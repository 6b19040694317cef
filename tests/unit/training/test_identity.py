"""The fingerprint of a run: changed by what decides the student, and by nothing else."""

from pathlib import Path

import pytest

from kd_ray.cache.order import Order
from kd_ray.cache.spec import Spec
from kd_ray.cache.stream import SnapshotSpan, SourceSpans
from kd_ray.cache.transforms import FrozenTransform
from kd_ray.cache.units import Span, Unit
from kd_ray.config.load import load_recipe
from kd_ray.training.identity import distilled_fingerprint, reference_fingerprint
from kd_ray.training.missing import Missing
from tests.support.recipes import VALID, write

UNIT = Unit(span=Span(shard="s", group_start=0, group_stop=1), view_start=0, view_stop=1)


def order(*, name: str = "", weight: int = 1, num_rows: int = 3) -> Order:
    span = SnapshotSpan(span=Span(shard="s", group_start=0, group_stop=1), rows=tuple(range(num_rows)))
    source = SourceSpans(name=name, weight=weight, spans=(span,), recurrence=None)
    return Order(sources=(source,), seed=0, num_lanes=1, window=1)


def distilled(folder: Path, *overrides: str, **changes: object) -> str:
    arguments = {
        "corpus_id": "corpus",
        "order": order(),
        "views": {"": Spec(name="views", identity={"seed": 1})},
        "targets": {"": {("teacher", "logits"): (Spec(name="t", identity={}), Spec(name="logits", identity={}))}},
        "student_weights": None,
    }
    recipe = load_recipe(write(folder, VALID), overrides)
    return distilled_fingerprint(recipe, **(arguments | changes))


def transform(digest: str) -> FrozenTransform:
    spec = Spec(name="t", identity={})
    return FrozenTransform(cache_uri="c", target_set=spec, output=spec, version=1, digest=digest)


def reference(folder: Path, *overrides: str, **changes: object) -> str:
    arguments = {"corpus_id": "corpus", "order": order(), "student_weights": None, "num_steps": 7}
    recipe = load_recipe(write(folder, VALID), overrides)
    return reference_fingerprint(recipe, **(arguments | changes))


OF_BOTH = [
    ({"corpus_id": "other"}, ()),
    ({"order": order(name="photos")}, ()),
    ({"order": order(weight=2)}, ()),
    ({"student_weights": "etag"}, ()),
    ({}, ("train.data_weight_mode=inv_frequency",)),
    ({}, ("train.data_weight_by=duplicates",)),
    ({}, ("train.seed=1",)),
    ({}, ("train.precision=bfloat16",)),
    ({}, ("train.accumulate_batches=2",)),
    ({}, ("train.ema={}",)),
    ({}, ("train.average_best=2",)),
    ({}, ("train.max_time=1h",)),
    ({}, ("train.early_stopping={}",)),
    ({}, ("train.optimizer.layer_decay=0.5",)),
    ({}, ("train.schedule.min_learning_rate=0.0001",)),
    ({}, ("labels={kind: per_class, count: 3}",)),
    ({}, ("student.model.depth=20",)),
]


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        *OF_BOTH,
        ({"views": {"": Spec(name="views", identity={"seed": 2})}}, ()),
        ({"targets": {"": {}}}, ()),
        ({"transforms": {0: transform("a")}}, ()),
        ({}, ("views.count=3",)),
        ({}, ("train.epochs=4",)),
        ({}, ("train.steps_per_epoch=100",)),
        ({}, ("train.losses.0.temperature=3",)),
        ({}, ("train.losses.0.remainder=uniform",)),
        ({"live": {"": Missing(outputs={("teacher", "logits"): frozenset({UNIT})})}}, ()),
    ],
)
def test_what_decides_the_student_changes_its_fingerprint(
    tmp_path: Path, changes: dict[str, object], overrides: tuple[str, ...]
) -> None:
    assert distilled(tmp_path, *overrides, **changes) != distilled(tmp_path)


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [*OF_BOTH, ({"order": order(num_rows=4)}, ()), ({"num_steps": 8}, ()), ({}, ("views.seed=5",))],
)
def test_what_decides_the_reference_changes_its_fingerprint(
    tmp_path: Path, changes: dict[str, object], overrides: tuple[str, ...]
) -> None:
    assert reference(tmp_path, *overrides, **changes) != reference(tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "train.log_every_steps=7",
        "train.max_failures=9",
        "train.reference=true",
        "out=elsewhere",
        "train.missing_targets=skip",
        "train.wait_limit_s=9",
        "train.tracking.tensorboard=false",
        "train.evaluate_every_steps=7",
    ],
)
def test_what_does_not_decide_the_student_leaves_the_fingerprint(tmp_path: Path, override: str) -> None:
    assert distilled(tmp_path, override) == distilled(tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "train.losses.0.temperature=3",
        "train.targets=live",
        "train.epochs=4",
        "train.steps_per_epoch=9",
        "train.max_steps=2",
    ],
)
def test_the_reference_does_not_depend_on_what_it_does_not_use(tmp_path: Path, override: str) -> None:
    assert reference(tmp_path, override) == reference(tmp_path)


@pytest.mark.parametrize("setting", ["train.average_best=2", "train.early_stopping={}"])
def test_evaluations_that_decide_something_name_the_run(tmp_path: Path, setting: str) -> None:
    other = "train.evaluate_every_steps=7"
    assert distilled(tmp_path, setting, other) != distilled(tmp_path, setting)
    assert reference(tmp_path, setting, other) != reference(tmp_path, setting)


def test_the_order_of_the_targets_does_not_matter(tmp_path: Path) -> None:
    spec = Spec(name="t", identity={})
    targets = {("teacher", name): (spec, Spec(name=name, identity={"output": name})) for name in ("logits", "summary")}
    reverse = dict(reversed(targets.items()))
    assert distilled(tmp_path, targets={"": targets}) == distilled(tmp_path, targets={"": reverse})


@pytest.mark.parametrize(
    ("overrides", "num_steps"),
    [
        ((), 47),  # 3 passes over 1,000 samples in batches of 64
        (("train.steps_per_epoch=10",), 30),
        (("train.steps_per_epoch=10", "train.epochs=0.25"), 2),
        (("train.steps_per_epoch=1", "train.epochs=0.1"), 1),
    ],
)
def test_a_run_is_epochs_times_the_steps_of_one(tmp_path: Path, overrides: tuple[str, ...], num_steps: int) -> None:
    assert load_recipe(write(tmp_path), overrides).train.num_steps(1_000) == num_steps


def test_recipes_without_kinds_and_repeats_keep_their_fingerprints_for_ever(tmp_path: Path) -> None:
    """As they were before policies had kinds: a finished run is not run again."""
    assert distilled(tmp_path) == "95c4d164f336f97b7b6259c877c6276fede5f1ffb1d8587a055598bb73d3f4fd"
    first = reference(tmp_path, "views.policy.renderer_version=1")
    assert first == "a0137a896708e7e9998882f4fe9eb027a31b85a1011589f6b1a6c805b4d0ed1d"


KINDS = (
    "views.policy={operations: [], kinds: {one: {operations: [{kind: center_crop}]}, "
    "two: {operations: [{kind: random_resized_crop}]}}}"
)


def of_kinds(folder: Path, *overrides: str) -> tuple[str, str]:
    by_kind = {kind: Spec(name="views", identity={"kind": kind}) for kind in ("one", "two")}
    targets = {
        kind: {("teacher", "logits"): (Spec(name="t", identity={"kind": kind}), Spec(name="logits", identity={}))}
        for kind in by_kind
    }
    return (
        distilled(folder, KINDS, *overrides, views=by_kind, targets=targets),
        reference(folder, KINDS, *overrides),
    )


@pytest.mark.parametrize(
    "override",
    [
        "views.policy.kinds.two.num_crops=2",
        "views.policy.kinds.two.size_px=[16,16]",
        "views.policy.repeats=2",
        "student.input.kind_sizes_px.two=[16,16]",
    ],
)
def test_what_decides_the_views_of_a_turn_changes_both_fingerprints(tmp_path: Path, override: str) -> None:
    for changed, before in zip(of_kinds(tmp_path, override), of_kinds(tmp_path), strict=True):
        assert changed != before


def test_another_transform_makes_another_student(tmp_path: Path) -> None:
    one, other = (distilled(tmp_path, transforms={0: transform(digest)}) for digest in "ab")
    assert one != other
    assert distilled(tmp_path, transforms={}) == distilled(tmp_path)

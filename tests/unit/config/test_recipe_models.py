"""What fits together in a recipe and what does not: each refusal named at its place, all of them at once."""

from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.errors import RecipeError
from tests.support.recipes import VALID, line_of, write

TWO_TEACHERS = VALID.replace(
    "teacher:\n  model",
    "teachers:\n  other:\n    model: {kind: cifar_resnet, depth: 56}\n    weights: w.safetensors\n"
    "    input: {size_px: [32, 32]}\n    outputs: {summary: {}}\n  main:\n    model",
).replace(
    "  input: {size_px: [32, 32]}\n  outputs:\n    logits: {codec: float16}\n",
    "    input: {size_px: [32, 32]}\n    outputs:\n      logits: {codec: float16}\n",
    1,
)


def _mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return [line.strip().replace(f"{folder}/", "") for line in str(caught.value).splitlines()[1:]]


def _only(folder: Path, text: str, *overrides: str) -> str:
    (mistake,) = _mistakes(folder, text, *overrides)
    return mistake


def test_several_teachers_by_name_are_fine(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, TWO_TEACHERS), ["train.losses.0.teacher=main"])
    assert list(recipe.all_teachers()) == ["other", "main"]


def test_the_only_teacher_need_not_be_named(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    loss = recipe.train.losses[0]
    assert loss.kind == "kd"
    assert recipe.teacher_of(loss) == "teacher"


def test_no_teacher_is_refused(tmp_path: Path) -> None:
    assert _only(tmp_path, VALID, "teacher=null") == (
        "command line: teacher: does not fit together; give either teacher (one) or teachers (several, by name)."
    )


def test_both_teacher_and_teachers_is_refused(tmp_path: Path) -> None:
    start = VALID.index("teacher:\n")
    section = VALID[start : VALID.index("cache:")]
    teachers = "teachers:\n  second:\n" + "".join(f"  {line}\n" for line in section.splitlines()[1:])
    assert "give either teacher (one) or teachers (several, by name)" in "".join(_mistakes(tmp_path, VALID + teachers))


@pytest.mark.parametrize("override", ["train.balance=ema", "train.balance=uncertainty", "train.teacher_dropout=0.5"])
def test_balancing_one_teacher_is_refused(tmp_path: Path, override: str) -> None:
    name = override.partition("=")[0]
    mistake = _only(tmp_path, VALID, override)
    assert f"{name}: does not fit together" in mistake
    assert "is for losses of several teachers, and these follow one" in mistake


def test_several_teachers_are_balanced(tmp_path: Path) -> None:
    more = ["train.balance=ema", "train.teacher_dropout=0.5"]
    losses = "train.losses=[{kind: kd, teacher: main}, {kind: feature, output: summary, teacher: other}]"
    train = load_recipe(write(tmp_path, TWO_TEACHERS), [losses, *more]).train
    assert (train.balance, train.teacher_dropout) == ("ema", 0.5)


def test_a_loss_must_name_one_of_several_teachers(tmp_path: Path) -> None:
    assert "train.losses.0.teacher: does not fit together; name one of other, main" in _only(tmp_path, TWO_TEACHERS)


def test_a_loss_that_names_an_unknown_teacher_is_refused_at_its_place(tmp_path: Path) -> None:
    assert _only(tmp_path, VALID, "train.losses.0.teacher=tutor") == (
        "command line: train.losses.0.teacher: does not fit together; 'tutor' is not one of teacher."
    )


def test_a_loss_on_an_output_that_is_not_stored_is_refused_at_its_line(tmp_path: Path) -> None:
    text = VALID.replace("{kind: kd, temperature: 2.0}", "{kind: feature, output: spatial}")
    mistake = _only(tmp_path, text)
    assert mistake.startswith(line_of(tmp_path / "recipe.yaml", "spatial").removeprefix(f"{tmp_path}/"))
    assert mistake.endswith(
        "train.losses.0: does not fit together; "
        "needs spatial, which teacher 'teacher' does not store; it stores logits."
    )


def test_kd_at_a_temperature_that_top_k_logits_do_not_hold_is_refused(tmp_path: Path) -> None:
    top_k = "teacher.outputs.logits={codec: top_k, k: 5}"
    load_recipe(write(tmp_path, VALID), [top_k])
    mistake = _only(tmp_path, VALID, top_k, "train.losses.0.temperature=3")
    assert mistake == (
        "command line: train.losses.0.temperature: does not fit together; teacher 'teacher' stores top_k logits for "
        "temperatures 1, 2, 4; take one of them, or add 3 to its outputs.logits.temperatures."
    )


def test_kd_needs_logits(tmp_path: Path) -> None:
    mistake = _only(tmp_path, TWO_TEACHERS, "train.losses.0.teacher=other")
    assert "needs logits, which teacher 'other' does not store; it stores summary" in mistake


def test_everything_that_needs_labels_is_refused_without_them_each_at_its_place(tmp_path: Path) -> None:
    mistakes = _mistakes(
        tmp_path,
        VALID.replace("pretrained: true", "pretrained: false"),
        "labels.kind=none",
        "train.losses.1.kind=cross_entropy",
        "train.reference=true",
        "teacher.finetune.steps=10",
    )
    assert [mistake.split(": does not fit together; ")[0] for mistake in mistakes] == [
        "command line: teacher.finetune",
        "command line: train.losses.1",
        "command line: train.reference",
    ]
    assert all(mistake.endswith("needs labels, but labels.kind is none.") for mistake in mistakes)


def test_mixing_needs_more_than_one_sample_in_a_row_group(tmp_path: Path) -> None:
    mistake = _only(tmp_path, VALID, "views.policy.mix.mixup_alpha=1.0", "corpus.row_group_size=1")
    assert mistake.startswith("command line: views.policy.mix: ")
    assert "corpus.row_group_size is 1. Raise it, or remove mix" in mistake


def test_images_are_evaluated_unmixed(tmp_path: Path) -> None:
    policy = "evaluate.policy={name: e, operations: [{kind: center_crop}], mix: {cutmix_alpha: 1.0}}"
    assert "images are evaluated as they are; remove mix" in _only(tmp_path, VALID, policy)


@pytest.mark.parametrize(("value", "expected"), [("all", 1), ("7", 7)])
def test_how_many_views_are_checked(tmp_path: Path, value: str, expected: int) -> None:
    (tmp_path / "recipe.yaml").write_text(VALID)
    assert load_recipe(tmp_path / "recipe.yaml", [f"views.verify={value}"]).views.verify_one_in == expected


def test_distillation_without_labels_is_fine(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path), ["labels.kind=none"]).labels.kind == "none"


def test_a_run_without_a_training_split_is_refused(tmp_path: Path) -> None:
    mistake = _only(tmp_path, VALID, "corpus.split={kind: paths, train: null, test: val}")
    assert mistake.startswith("command line: corpus.split.train: does not fit together; a run that trains needs")


def test_missing_targets_are_of_cached_ones(tmp_path: Path) -> None:
    mistake = _only(tmp_path, VALID, "train.targets=live", "train.missing_targets=skip")
    assert mistake.endswith("missing_targets: skip is about cached targets, but targets is live; remove one.")


def test_batch_lanes_and_workers_must_divide_and_both_misfits_are_told(tmp_path: Path) -> None:
    mistakes = _mistakes(tmp_path, VALID, "train.global_batch_size=60", "train.num_workers=3")
    assert [mistake.split("does not fit together; ")[1] for mistake in mistakes] == [
        "global_batch_size (60) must be a multiple of lanes (8).",
        "lanes (8) must be a multiple of num_workers (3).",
    ]


@pytest.mark.parametrize(
    ("override", "path", "reason"),
    [
        ("teacher.model.pretrained=false", "teacher", "a teacher with random weights teaches nothing"),
        ("teacher.weights=w.safetensors", "teacher", "both weights and model.pretrained are given"),
        ("teacher.outputs.logits=null", "teacher.outputs", "no output is asked for"),
        ("teacher.outputs.logits={codec: top_k}", "teacher.outputs.logits", "top_k needs k"),
        ("teacher.outputs.logits={k: 5}", "teacher.outputs.logits", "k and temperatures belong to codec: top_k"),
        (
            "teacher.outputs.logits={codec: top_k, k: 5, temperatures: [2]}",
            "teacher.outputs.logits",
            "temperatures must include 1, which evaluation reads; got [2.0]",
        ),
        ("teacher.outputs.summary={codec: uint8}", "teacher.outputs.summary.codec", "codec uint8 is for logits; take"),
        ("teacher.outputs.summary={pool: 2}", "teacher.outputs.summary.pool", "pool is for spatial"),
        ("teacher.outputs.logits={pool: 2}", "teacher.outputs.logits.pool", "logits has no grid; remove it"),
        (
            "teacher.outputs.logits={basis: {explained_variance: 0.9}}",
            "teacher.outputs.logits.basis",
            "basis is for summary and spatial",
        ),
        (
            "train={losses: [{kind: feature, output: summary, standardize: phi_s}], epochs: 1, targets: live}",
            "train.losses.0.standardize",
            "standardize is made from cached targets",
        ),
        (
            "train={losses: [{kind: feature, output: summary, standardize_version: 2}], epochs: 1}",
            "train.losses.0.standardize_version",
            "is that of standardize, which is not set",
        ),
        ("teacher.input.std=[1,1,0]", "teacher.input", "std must be positive"),
        ("teacher.resources.min_workers=4", "teacher.resources", r"min_workers (4) must not exceed max_workers (1)"),
        ("teacher.resources.accelerators.L4.batch_size_per_worker=8", "teacher.resources", "but num_gpus is 0"),
        ("views.policy.operations.0.scale=[0.5,0.2]", "views.policy.operations.0.scale", "scale must satisfy"),
        ("views.policy.operations.0.ratio=[2,1]", "views.policy.operations.0.ratio", "ratio must satisfy"),
        (
            "views.policy.operations=[{kind: horizontal_flip}]",
            "views.policy.operations",
            "must start with its only crop",
        ),
        ("cluster={address: auto, num_cpus: 2}", "cluster", "belong to a cluster started here"),
    ],
)
def test_values_of_one_section_that_contradict_each_other_are_refused(
    tmp_path: Path, override: str, path: str, reason: str
) -> None:
    mistake = _only(tmp_path, VALID, override)
    assert f": {path}: does not fit together; " in mistake
    assert reason in mistake


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("train.losses=[]", "train.losses"),
        ("train.losses.0.weight=0", "train.losses.0.weight"),
        ("train.epochs=.inf", "train.epochs"),
        ("train.epochs=.nan", "train.epochs"),
        ("views.count=0", "views.count"),
        ("views.policy.name=Bad Name", "views.policy.name"),
        ("corpus.split={kind: hash, test_fraction: 1}", "corpus.split.test_fraction"),
        ("teacher.input.size_px=[32]", "teacher.input.size_px.1"),
        ("teacher.input.size_px=[32,0]", "teacher.input.size_px.1"),
        ("student.name=../up", "student.name"),
        ("train.optimizer.momentum=1", "train.optimizer.momentum"),
    ],
)
def test_values_out_of_range_are_refused_at_their_path(tmp_path: Path, override: str, path: str) -> None:
    assert _only(tmp_path, VALID, override).startswith(f"command line: {path}: ")


def test_a_bad_name_of_a_teacher_is_refused(tmp_path: Path) -> None:
    mistakes = _mistakes(tmp_path, TWO_TEACHERS.replace("  main:", "  my/main:"), "train.losses.0.teacher=other")
    assert any("teachers.my/main" in mistake for mistake in mistakes)


def test_a_recipe_cannot_be_changed_once_loaded(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.epochs = 5  # type: ignore[misc]


MASKED = VALID.replace(
    "  policy:\n    name: plain\n    operations:\n"
    "      - {kind: random_resized_crop}\n      - {kind: horizontal_flip}\n",
    "  policy: paper_seg\n",
)


@pytest.mark.parametrize(
    ("corpus", "where"),
    [
        ("{kind: folder, uri: images, packed_uri: packed}", "corpus (folder)"),
        ("{kind: digits, uri: images, packed_uri: packed}", "corpus (digits)"),
        ("{kind: parquet, uri: images, packed_uri: packed}", "corpus (parquet)"),
        ("{kind: listing, uri: images.csv, packed_uri: packed}", "corpus (listing)"),
        ("{kind: webdataset, uri: images, packed_uri: packed}", "corpus (webdataset)"),
        (
            "{kind: mixture, packed_uri: packed, sources: {a: {kind: folder, uri: images}, "
            "b: {kind: segmentation, uri: pairs}}}",
            "corpus.sources.a (folder)",
        ),
    ],
)
def test_a_crop_by_masks_is_refused_where_no_mask_can_be(tmp_path: Path, corpus: str, where: str) -> None:
    text = MASKED.replace('{kind: folder, uri: images, packed_uri: "${out}/corpus"}', corpus)
    mistake = _only(tmp_path, text)
    assert "views.policy: does not fit together; cat_max_ratio places crops by masks" in mistake
    assert f"and {where} has none. Set cat_max_ratio: null" in mistake


@pytest.mark.parametrize(
    "corpus",
    [
        "{kind: segmentation, uri: pairs, packed_uri: packed}",
        "{kind: parquet, uri: images, packed_uri: packed, mask_column: seg}",
        "{kind: webdataset, uri: images, packed_uri: packed, mask_extension: seg.png}",
        "{kind: folder, uri: images, packed_uri: packed, overrides_uri: masks.parquet}",
    ],
)
def test_a_crop_by_masks_is_fine_where_masks_may_be(tmp_path: Path, corpus: str) -> None:
    text = MASKED.replace('{kind: folder, uri: images, packed_uri: "${out}/corpus"}', corpus)
    assert load_recipe(write(tmp_path, text)).views.policy.reads_masks


def test_an_evaluation_by_masks_is_refused_beside_the_views(tmp_path: Path) -> None:
    found = _mistakes(tmp_path, MASKED, "evaluate.policy=paper_seg")
    assert len(found) == 2
    assert all("cat_max_ratio" in each for each in found)


def test_without_cat_max_ratio_any_corpus_will_do(tmp_path: Path) -> None:
    crop = "[{kind: random_scale_crop, cat_max_ratio: null}]"
    text = MASKED.replace("policy: paper_seg", f"policy: {{name: scaled, operations: {crop}}}")
    assert not load_recipe(write(tmp_path, text)).views.policy.reads_masks

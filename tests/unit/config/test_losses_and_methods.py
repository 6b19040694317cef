"""Losses that do not fit are refused in words, and a method by name is the fields that it stands for."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from kd_ray.config.load import load_recipe
from kd_ray.config.losses import KdLoss, Loss
from kd_ray.config.methods import EXPANSIONS, Method
from kd_ray.config.resolved import recipe_yaml
from kd_ray.config.train import Train
from kd_ray.errors import RecipeError
from tests.support.recipes import VALID, write

LOSS: TypeAdapter[Loss] = TypeAdapter(Loss)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"kind": "feature", "output": "summary", "head": None}, "needs a head"),
        ({"kind": "feature", "output": "summary", "distance": "attention_transfer"}, "set spatial"),
        ({"kind": "feature", "output": "summary", "distance": "l1", "beta": 2}, "is of smooth_l1"),
        ({"kind": "feature", "output": "summary", "distance": "cosine", "cosine_share": 0.5}, "is of balanced"),
        ({"kind": "relational", "output": "summary", "distance": "token_similarity"}, "set spatial"),
        ({"kind": "relational", "output": "summary", "distance": "cka", "temperature": 1}, "is of token_similarity"),
        ({"kind": "contrastive", "head": None}, "set a head"),
        ({"kind": "dist", "beta": 0, "gamma": 0}, "leaves no loss"),
        ({"kind": "dkd", "alpha": 0, "beta": 0}, "leaves no loss"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LOSS.validate_python(values)


def test_new_fields_leave_older_fingerprints_as_they_are() -> None:
    assert set(KdLoss(kind="kd").model_dump(mode="json")) == {"kind", "weight", "temperature", "teacher"}


def test_every_method_has_an_expansion() -> None:
    assert set(get_args(Method)) == set(EXPANSIONS)


@pytest.mark.parametrize("method", get_args(Method))
def test_a_method_is_its_expansion_and_is_dumped_as_that(method: str) -> None:
    by_name = Train.model_validate({"method": method, "epochs": 1})
    written = Train.model_validate({**EXPANSIONS[method], "epochs": 1})
    assert by_name.losses
    assert by_name.model_dump(mode="json") == written.model_dump(mode="json")
    assert Train.model_validate(by_name.model_dump(mode="json")).losses == by_name.losses


def test_own_values_win_over_a_method() -> None:
    values = {"method": "patient", "epochs": 1, "gradient_clip": None, "schedule": {"warmup_fraction": 0.2}}
    train = Train.model_validate(values)
    assert (train.gradient_clip, train.schedule.kind, train.schedule.warmup_fraction) == (None, "cosine", 0.2)
    other = Train.model_validate({"method": "patient", "epochs": 1, "schedule": {"kind": "constant"}})
    assert other.schedule.kind == "constant"


def test_a_method_and_losses_are_one_too_many() -> None:
    with pytest.raises(ValidationError, match="remove one of the two"):
        Train.model_validate({"method": "hinton", "losses": [{"kind": "kd"}], "epochs": 1})


@pytest.mark.parametrize("loss", ["{kind: dist}", "{kind: dkd}", "{kind: kd, standardize_logits: true}"])
def test_top_k_targets_are_refused_where_all_logits_are_needed(tmp_path: Path, loss: str) -> None:
    path = write(tmp_path, VALID)
    load_recipe(path, [f"train.losses=[{loss}]"])
    with pytest.raises(RecipeError, match="needs all logits, but teacher 'teacher' stores the top_k"):
        load_recipe(path, [f"train.losses=[{loss}]", "teacher.outputs.logits={codec: top_k, k: 5}"])


@pytest.mark.parametrize("method", get_args(Method))
def test_a_recipe_shows_what_its_method_stands_for(tmp_path: Path, method: str) -> None:
    text = VALID.replace("  losses:\n    - {kind: kd, temperature: 2.0}\n", f"  method: {method}\n")
    outputs = "teacher.outputs={logits: {codec: float16}, summary: {codec: float16}, spatial: {codec: float16}}"
    recipe = load_recipe(write(tmp_path, text), [outputs])
    shown = recipe_yaml(recipe)
    assert "method" not in shown
    assert all(f"kind: {loss['kind']}" in shown for loss in EXPANSIONS[method]["losses"])

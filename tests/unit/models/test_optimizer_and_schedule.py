"""Which parameters are decayed, and the learning rate of every step."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR

from kd_ray.config.models import CifarResNet, TimmModel
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.errors import ModelError
from kd_ray.models import build_model, build_optimizer, build_schedule


def decayed(module: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    ids = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    return {name for name, parameter in module.named_parameters() if id(parameter) in ids}


def rates(config: Schedule, *, num_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = build_schedule(config, optimizer, learning_rate=2.0, num_steps=num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lamb", "lars"])
def test_every_kind_takes_a_step(kind: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    optimizer = build_optimizer(Optimizer.model_validate({"kind": kind, "learning_rate": 0.1}), module)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, module.weight)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_momentum_reaches_sgd() -> None:
    optimizer = build_optimizer(Optimizer(kind="sgd", momentum=0.7), nn.Linear(3, 2))
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_biases_norms_and_position_embeddings_are_not_decayed() -> None:
    module = build_model(TimmModel(kind="timm", name="test_vit"), num_classes=3)
    names = decayed(module, build_optimizer(Optimizer(), module))
    assert "blocks.0.attn.qkv.weight" in names
    assert not names & {"pos_embed", "cls_token", "norm.weight", "head.bias", "blocks.0.norm1.weight"}


def test_frozen_parameters_are_left_out() -> None:
    module = nn.Linear(3, 2)
    module.weight.requires_grad = False
    optimizer = build_optimizer(Optimizer(), module)
    assert [p is module.bias for group in optimizer.param_groups for p in group["params"]] == [True]


def test_cosine_warms_up_then_falls_to_zero() -> None:
    found = rates(Schedule(kind="cosine", warmup_fraction=0.2), num_steps=10)
    warmup = [2 * 1 / 3, 2 * 2 / 3]
    cosine = [1 + math.cos(math.pi * i / 8) for i in range(9)]
    assert found == pytest.approx([*warmup, *cosine], abs=1e-12)


def test_constant_warms_up_then_stays() -> None:
    found = rates(Schedule(kind="constant", warmup_fraction=0.25), num_steps=4)
    assert found == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0])


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rates(Schedule(kind="cosine", warmup_fraction=0.0), num_steps=5)[0] == 2.0


def test_state_resumes_in_the_middle() -> None:
    config = Schedule(kind="cosine", warmup_fraction=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = build_schedule(config, optimizer, learning_rate=2.0, num_steps=10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    other_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    other = build_schedule(config, other_optimizer, learning_rate=2.0, num_steps=10)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(schedule.state_dict())
    found = [other_optimizer.param_groups[0]["lr"]]
    for _ in range(6):
        other_optimizer.step()
        other.step()
        found.append(other_optimizer.param_groups[0]["lr"])
    assert found == rates(config, num_steps=10)[4:]


def of_torch(make: Callable[[torch.optim.Optimizer], LRScheduler], *, num_steps: int) -> list[float]:
    """The learning rates of one of torch's own schedulers, from 2."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = make(optimizer)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (
            {"kind": "cosine", "warmup_fraction": 0.0, "min_learning_rate": 0.5},
            partial(CosineAnnealingLR, T_max=40, eta_min=0.5),
        ),
        (
            {"kind": "linear", "warmup_fraction": 0.0, "min_learning_rate": 0.5},
            partial(LinearLR, start_factor=1.0, end_factor=0.25, total_iters=40),
        ),
        (
            {"kind": "step", "warmup_fraction": 0.0, "milestones": (0.5, 0.75), "milestone_factor": 0.2},
            partial(MultiStepLR, milestones=[20, 30], gamma=0.2),
        ),
        (
            {"kind": "one_cycle", "warmup_fraction": 0.25, "min_learning_rate": 2 / 25 / 1e4},
            partial(OneCycleLR, max_lr=2.0, total_steps=40, pct_start=0.25, cycle_momentum=False),
        ),
    ],
    ids=["cosine", "linear", "step", "one_cycle"],
)
def test_the_course_is_that_of_torch(
    config: dict[str, object], reference: Callable[[torch.optim.Optimizer], LRScheduler]
) -> None:
    found = rates(Schedule.model_validate(config), num_steps=40)[:-1]
    assert found == pytest.approx(of_torch(reference, num_steps=40), rel=1e-9)


@pytest.mark.parametrize("kind", ["cosine", "linear", "one_cycle"])
def test_in_the_cool_down_what_has_fallen_stays(kind: str) -> None:
    config = Schedule.model_validate({"kind": kind, "cooldown_fraction": 0.2, "min_learning_rate": 0.25})
    found = rates(config, num_steps=20)
    assert found[16:] == pytest.approx([0.25] * 5)
    assert found[14] > 0.25


def test_in_the_cool_down_what_was_constant_falls_linearly() -> None:
    found = rates(Schedule(kind="constant", warmup_fraction=0.0, cooldown_fraction=0.4), num_steps=10)
    assert found == pytest.approx([2.0] * 7 + [1.5, 1.0, 0.5, 0.0])


def test_one_cycle_without_warm_up_starts_at_the_top() -> None:
    assert rates(Schedule(kind="one_cycle", warmup_fraction=0.0), num_steps=50)[0] == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("kind", ["linear", "step", "one_cycle"])
def test_every_course_resumes_in_the_middle(kind: str) -> None:
    milestones = {"milestones": [0.5]} if kind == "step" else {}
    config = Schedule.model_validate({"kind": kind, "cooldown_fraction": 0.2, **milestones})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = build_schedule(config, optimizer, learning_rate=2.0, num_steps=10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    other_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    other = build_schedule(config, other_optimizer, learning_rate=2.0, num_steps=10)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(schedule.state_dict())
    found = []
    for _ in range(6):
        found.append(other_optimizer.param_groups[0]["lr"])
        other_optimizer.step()
        other.step()
    assert found == rates(config, num_steps=10)[4:-1]


@pytest.mark.parametrize(
    ("model", "first", "last"),
    [
        (TimmModel(kind="timm", name="test_vit"), "patch_embed.proj.weight", "head.weight"),
        (CifarResNet(kind="cifar_resnet", depth=8), "conv1.weight", "linear.weight"),
    ],
    ids=["timm", "cifar_resnet"],
)
def test_layers_learn_less_the_earlier_they_are(model: TimmModel | CifarResNet, first: str, last: str) -> None:
    class WithHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build_model(model, num_classes=3)
            self.heads = nn.Linear(4, 4)

        def no_weight_decay(self) -> set[str]:
            of_backbone = getattr(self.backbone, "no_weight_decay", set)()
            return {f"backbone.{name}" for name in of_backbone}

    module = WithHead()
    optimizer = build_optimizer(Optimizer(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1), module)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    rate_of = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rate_of) == set(names.values())
    assert rate_of[f"backbone.{last}"] == rate_of["heads.weight"] == rate_of["heads.bias"] == 1.0
    by_layer = sorted(set(rate_of.values()))
    assert rate_of[f"backbone.{first}"] == by_layer[0]
    assert by_layer == [0.5 ** (len(by_layer) - 1 - number) for number in range(len(by_layer))]
    assert len(by_layer) >= 4
    assert decayed(module, optimizer) == decayed(module, build_optimizer(Optimizer(weight_decay=0.1), module))


def test_layer_decay_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"train\.optimizer\.layer_decay: Linear does not tell its layers apart"):
        build_optimizer(Optimizer(layer_decay=0.5), nn.Linear(3, 2))

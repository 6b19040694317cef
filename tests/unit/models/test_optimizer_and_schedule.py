"""Which parameters are decayed, and the learning rate of every step."""

import math

import pytest
import torch
from torch import nn

from kd_ray.config.models import TimmModel
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.models import build_model, build_optimizer, build_schedule


def decayed(module: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    ids = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    return {name for name, parameter in module.named_parameters() if id(parameter) in ids}


def rates(config: Schedule, *, num_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = build_schedule(config, optimizer, num_steps=num_steps)
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
    schedule = build_schedule(config, optimizer, num_steps=10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    other_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    other = build_schedule(config, other_optimizer, num_steps=10)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(schedule.state_dict())
    found = [other_optimizer.param_groups[0]["lr"]]
    for _ in range(6):
        other_optimizer.step()
        other.step()
        found.append(other_optimizer.param_groups[0]["lr"])
    assert found == rates(config, num_steps=10)[4:]

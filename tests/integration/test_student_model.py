"""The student: one backbone pass, a head for each feature loss, and no parameter that waits for a gradient."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kd_ray.config.losses import Loss
from kd_ray.config.optim import Optimizer
from kd_ray.config.student import Student
from kd_ray.errors import ModelError
from kd_ray.models import build_model, build_optimizer, model_outputs, save_weights, state_fingerprint
from kd_ray.storage import LocalStorage
from kd_ray.students import StudentModel, build_student
from kd_ray.students.heads import resample_grid

CROSS_ENTROPY = {"kind": "cross_entropy"}
SUMMARY = {"kind": "feature", "output": "summary"}
SPATIAL = {"kind": "feature", "output": "spatial", "head": {"kind": "mlp", "hidden_width": 16}}
RESNET = {"kind": "timm", "name": "test_resnet"}
CIFAR = {"kind": "cifar_resnet", "depth": 8}
MOBILENET = {"kind": "timm", "name": "mobilenetv3_small_050"}
VIT = {"kind": "timm", "name": "test_vit", "args": {"img_size": 64}}


def student(
    model: dict[str, Any], losses: list[dict[str, Any]], shapes: Mapping[int, tuple[int, ...]], **changes: Any
) -> StudentModel:
    torch.manual_seed(0)
    config = Student.model_validate({"model": model, "input": {"size_px": (64, 64)}} | changes)
    adapter: TypeAdapter[Loss] = TypeAdapter(Loss)
    parsed = [adapter.validate_python(loss) for loss in losses]
    return build_student(config, num_classes=5, losses=parsed, target_shapes=(shapes,))


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def trainable_without_gradient(module: nn.Module, total: torch.Tensor) -> list[str]:
    total.backward()
    return [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("model", [RESNET, CIFAR, MOBILENET, VIT], ids=lambda m: m.get("name", "cifar"))
def test_outputs_have_the_shapes_of_their_targets(model: dict[str, Any]) -> None:
    module = student(model, [CROSS_ENTROPY, SUMMARY, SPATIAL, SPATIAL], {1: (24,), 2: (7, 7, 12), 3: (16, 5, 9)})
    outputs = module(torch.randn(2, 3, 64, 64))
    assert {name: tuple(output.shape[1:]) for name, output in outputs.items()} == {
        "logits": (5,),
        "feature_1": (24,),
        "feature_2": (7, 7, 12),
        "feature_3": (16, 5, 9),
    }


def test_logits_are_the_backbones() -> None:
    module = student(RESNET, [CROSS_ENTROPY, SUMMARY], {1: (24,)}).eval()
    x_BCHW = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(module(x_BCHW)["logits"], module.backbone(x_BCHW))


def test_backbone_runs_once() -> None:
    module = student(RESNET, [SUMMARY, SPATIAL, CROSS_ENTROPY], {0: (24,), 1: (3, 3, 8)})
    calls: list[nn.Module] = []
    module.backbone.get_submodule("conv1").register_forward_hook(lambda m, *_: calls.append(m))
    module(torch.randn(2, 3, 64, 64))
    assert len(calls) == 1


def test_heads_are_keyed_by_the_index_of_their_loss() -> None:
    module = student(RESNET, [SUMMARY, CROSS_ENTROPY, SPATIAL], {0: (24,), 2: (3, 3, 8)})
    assert list(module.heads) == ["0", "2"]


def test_without_feature_losses_there_are_no_heads() -> None:
    module = student(CIFAR, [CROSS_ENTROPY], {})
    assert list(module(torch.randn(1, 3, 64, 64))) == ["logits"]


@pytest.mark.parametrize("model", [RESNET, CIFAR, VIT], ids=lambda m: m.get("name", "cifar"))
def test_stages_are_read_in_one_pass(model: dict[str, Any]) -> None:
    hints: list[dict[str, Any]] = [SPATIAL | {"student_stage": 1}, SUMMARY | {"student_stage": 0}, SPATIAL, SUMMARY]
    module = student(model, hints, {0: (7, 7, 12), 1: (9,), 2: (3, 3, 8), 3: (6,)}).eval()
    x_BCHW = torch.randn(2, 3, 64, 64)
    found = module(x_BCHW)
    for index, stage in ((0, 1), (1, 0)):
        (map_BHWD,) = model_outputs(module.backbone, x_BCHW, names=["spatial"], spatial_stage=stage).values()
        head = module.heads[str(index)]
        wanted = head(resample_grid(map_BHWD, (7, 7))) if index == 0 else head(map_BHWD.mean(dim=(1, 2)))
        torch.testing.assert_close(found[f"feature_{index}"], wanted)
    assert found["feature_2"].shape == (2, 3, 3, 8)
    assert found["feature_3"].shape == (2, 6)


def test_a_hint_trains_nothing_behind_its_stage() -> None:
    module = student(CIFAR, [SPATIAL | {"student_stage": 0}], {0: (8, 8, 4)})
    trained = {name.split(".")[1] for name, p in module.backbone.named_parameters(prefix="b") if p.requires_grad}
    frozen = {name.split(".")[1] for name, p in module.backbone.named_parameters(prefix="b") if not p.requires_grad}
    assert trained
    assert frozen
    assert trainable_without_gradient(module, module(torch.randn(2, 3, 64, 64))["feature_0"].square().sum()) == []


def test_stage_that_the_student_lacks_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="no spatial output of stage 9; it has 3 stages"):
        student(CIFAR, [SPATIAL | {"student_stage": 9}], {0: (8, 8, 4)})


@pytest.mark.parametrize("model", [RESNET, CIFAR, MOBILENET, VIT], ids=lambda m: m.get("name", "cifar"))
@pytest.mark.parametrize(
    ("losses", "shapes"),
    [([SUMMARY], {0: (24,)}), ([SPATIAL], {0: (7, 7, 12)}), ([SPATIAL, CROSS_ENTROPY], {0: (7, 7, 12)})],
    ids=["summary", "spatial", "spatial+logits"],
)
def test_no_trainable_parameter_is_without_gradient(
    model: dict[str, Any], losses: list[dict[str, Any]], shapes: Mapping[int, tuple[int, ...]]
) -> None:
    module = student(model, losses, shapes)
    outputs = module(torch.randn(2, 3, 64, 64))
    used = [output for name, output in outputs.items() if name != "logits" or CROSS_ENTROPY in losses]
    total = torch.stack([output.square().sum() for output in used]).sum()
    assert trainable_without_gradient(module, total) == []


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("losses", [[SUMMARY], [SPATIAL]], ids=["summary", "spatial"])
def test_distributed_data_parallel_takes_a_second_step(losses: list[dict[str, Any]]) -> None:
    """The second forward is where it raises for parameters of the first that got no gradient."""
    module = student(MOBILENET, losses, {0: (24,) if losses == [SUMMARY] else (7, 7, 12)})
    wrapped = DistributedDataParallel(module)
    for _ in range(2):
        wrapped(torch.randn(2, 3, 64, 64))["feature_0"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)


def test_with_a_loss_on_logits_everything_trains() -> None:
    module = student(RESNET, [CROSS_ENTROPY, SUMMARY], {1: (24,)})
    assert all(p.requires_grad for p in module.parameters())


def test_one_seed_gives_one_backbone_whatever_the_losses() -> None:
    """The reference without a teacher starts where the distilled student starts."""
    alone = student(RESNET, [CROSS_ENTROPY], {})
    distilled = student(RESNET, [CROSS_ENTROPY, SUMMARY], {1: (7,)})
    assert state_fingerprint(alone.backbone) == state_fingerprint(distilled.backbone)


def test_weights_are_loaded_into_the_backbone(tmp_path: Path) -> None:
    config = Student.model_validate({"model": CIFAR, "input": {"size_px": (32, 32)}})
    torch.manual_seed(7)
    source = build_model(config.model, num_classes=5)
    save_weights(source, LocalStorage(str(tmp_path)), "w.safetensors")
    module = student(CIFAR, [CROSS_ENTROPY], {}, weights=f"{tmp_path}/w.safetensors")
    assert state_fingerprint(module.backbone) == state_fingerprint(source)


def test_position_embedding_of_the_backbone_is_not_decayed() -> None:
    module = student(VIT, [CROSS_ENTROPY], {})
    optimizer = build_optimizer(Optimizer(weight_decay=0.1), module)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    parameters = dict(module.named_parameters())
    assert id(parameters["backbone.pos_embed"]) not in decayed
    assert id(parameters["backbone.head.weight"]) in decayed


def test_input_size_that_the_backbone_refuses_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="64x64 px"):
        student({"kind": "timm", "name": "vit_tiny_patch16_224"}, [CROSS_ENTROPY], {})


class TestKinds:
    SHAPES: ClassVar = ({0: (4, 4, 7)}, {0: (4, 4, 7)}, {0: (2, 3, 7)})  # grids of the targets of three kinds

    def student(self) -> StudentModel:
        torch.manual_seed(0)
        config = Student.model_validate({"model": CIFAR, "input": {"size_px": (32, 32)}})
        loss = TypeAdapter(Loss).validate_python(SPATIAL)
        return build_student(config, num_classes=5, losses=[loss], target_shapes=self.SHAPES)

    def inputs(self) -> list[torch.Tensor]:
        torch.manual_seed(1)
        return [torch.randn(count, 3, size, size) for count, size in ((2, 32), (3, 32), (6, 16))]

    def test_each_kind_gets_what_it_would_alone_on_the_grid_of_its_targets(self) -> None:
        student, inputs = self.student().eval(), self.inputs()
        together = student(inputs)
        assert [len(each["logits"]) for each in together] == [2, 3, 6]
        assert [each["feature_0"].shape[1:] for each in together] == [shapes[0] for shapes in self.SHAPES]
        torch.testing.assert_close(student(inputs[0]), together[0])
        for x_BCHW, found in zip(inputs, together, strict=True):
            torch.testing.assert_close(student(x_BCHW)["logits"], found["logits"])

    def test_the_backbone_runs_once_for_each_size(self) -> None:
        student, batches = self.student(), []
        student.backbone.get_submodule("conv1").register_forward_pre_hook(
            lambda _, arguments: batches.append(tuple(arguments[0].shape))
        )
        student(self.inputs())
        assert batches == [(5, 3, 32, 32), (6, 3, 16, 16)]

    @pytest.mark.usefixtures("_one_process")
    def test_data_parallel_training_sees_one_forward_pass(self) -> None:
        student = self.student()
        network = nn.parallel.DistributedDataParallel(student)
        for _ in range(2):  # the second raises where a parameter was left out, or reached twice
            total = torch.stack([value.square().mean() for each in network(self.inputs()) for value in each.values()])
            assert trainable_without_gradient(network, total.sum()) == []

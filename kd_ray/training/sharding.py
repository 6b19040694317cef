"""FSDP2: a student whose weights are shared out over the workers, and whole tensors of those for checkpoints."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.training.workers import num_workers

Tensors = Mapping[str, Tensor]


def shard(student: nn.Module, backbone: nn.Module, device: torch.device) -> None:
    """Share out the weights of `student` in place, a group for each block of its `backbone` and one for the rest.

    Blocks are what stands in the backbone's lists of modules: those are called as modules, so that their weights can
    be gathered and freed around the call. The backbone itself is not, its features are asked for by method.
    """
    from torch.distributed.device_mesh import init_device_mesh  # 3 s with the next: only where they are used
    from torch.distributed.fsdp import fully_shard

    # no loss writes into an output, and views of a batch are many
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (num_workers(),))
    for block in _blocks(backbone):
        fully_shard(block, mesh=mesh)
    fully_shard(student, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was applied: it gives a module this method."""
    return hasattr(network, "set_requires_gradient_sync")


def local(tensor: Tensor) -> Tensor:
    """What this worker has of it."""
    shared: Any = tensor
    found: Tensor = shared.to_local() if _is_shared_out(tensor) else tensor
    return found


def _is_shared_out(value: Any) -> bool:
    """Whether it is a DTensor, whose module takes 3 s to import."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole(value: Any) -> Any:
    """`value` with every shared-out tensor in it gathered; a call of all workers together."""
    match value:
        case Tensor() if _is_shared_out(value):
            shared: Any = value
            return shared.full_tensor().cpu()
        case dict():
            return {key: whole(each) for key, each in value.items()}
        case list():
            return [whole(each) for each in value]
        case _:
            return value


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, shared out as `other` is."""
    if not _is_shared_out(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # 3 s: only where it is used

    shared: Any = other
    return distribute_tensor(tensor.to(other.device), shared.device_mesh, shared.placements)


def load_weights(network: nn.Module, tensors: Tensors) -> None:
    """Load whole tensors into a network, shared out or not."""
    if not is_sharded(network):
        network.load_state_dict(tensors)
        return
    own = network.state_dict()
    network.load_state_dict({name: like(tensor, own[name]) for name, tensor in tensors.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load the state of an optimiser of whole tensors into one whose parameters may be shared out."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state = {
        number: {
            # the count of steps has no axis, moments have those of their parameter
            name: like(value, parameters[number]) if isinstance(value, Tensor) and value.ndim else value
            for name, value in of_parameter.items()
        }
        for number, of_parameter in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": state})


def _blocks(backbone: nn.Module) -> Iterator[nn.Module]:
    for child in backbone.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from (each for each in child if any(True for _ in each.parameters()))

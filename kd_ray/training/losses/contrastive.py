"""The student's place among many of the teacher's targets.

Shape letters: B batch, D channels, Q targets in the queue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import all_gather, get_world_size, is_available, is_initialized

from kd_ray.training.losses.shapes import require_same_shape

LEAST_NORM = 1e-6


def contrastive_loss(student_BD: Tensor, teacher_BD: Tensor, queue_QD: Tensor, *, temperature: float) -> Tensor:
    """Mean over the batch of KL(softmax(t̂ Qᵀ / T) || softmax(ŝ Qᵀ / T)), in float32 (SEED, Fang et al. 2021; as in
    LightlyTrain's first distillation method). The rows of `queue_QD` are of unit length.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(student_BD, teacher_BD, what="features")
    student_BQ, teacher_BQ = (
        F.log_softmax(F.normalize(each.float(), dim=-1, eps=LEAST_NORM) @ queue_QD.T / temperature, dim=-1)
        for each in (student_BD, teacher_BD)
    )
    return F.kl_div(student_BQ, teacher_BQ, log_target=True, reduction="batchmean")


class Queues:
    """The last targets of each contrastive loss, by its index, oldest first, of unit length.

    All workers' targets go in at each step, so that every worker has the same queues and a checkpoint of
    one serves all.
    """

    def __init__(self) -> None:
        self.tensors: dict[int, Tensor] = {}

    def push(self, index: int, targets_BD: Tensor, *, size: int) -> Tensor:
        """The queue [Q, D] with the batch at its end, at most `size` long. All workers call this together."""
        new = _of_all_workers(F.normalize(targets_BD.detach().float(), dim=-1, eps=LEAST_NORM))
        before = self.tensors.get(index)
        queue = new if before is None else torch.cat([before.to(new.device), new])
        self.tensors[index] = queue[-size:].clone()
        return self.tensors[index]


def _of_all_workers(batch_BD: Tensor) -> Tensor:
    if not (is_available() and is_initialized()) or get_world_size() == 1:
        return batch_BD
    found = [torch.empty_like(batch_BD) for _ in range(get_world_size())]
    all_gather(found, batch_BD.contiguous())
    return torch.cat(found)

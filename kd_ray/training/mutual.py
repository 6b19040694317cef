"""Two students that train in one loop and learn from each other's current logits (Zhang et al. 2018, "Deep Mutual
Learning"): both are updated in the same step, each against the logits that the other had before it.

Shape letters: B batch, C channels, H W pixels, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_ray.students.student import StudentModel
from kd_ray.training.losses.contrastive import Queues
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.response import kd_loss
from kd_ray.training.losses.weighted import ALL_KEPT, Kept, Targets, WeightedLosses


class MutualStudents(nn.Module):
    """Both students on the same views; the outputs of student i are called "i/logits" and so on."""

    def __init__(self, students: Sequence[StudentModel]) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)

    def forward(self, x: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The outputs of both, for the views [B, C, H, W] of each kind."""
        joined: list[dict[str, Tensor]] = [{} for _ in x]
        for index, student in enumerate(self.students):
            for outputs, own in zip(joined, student(x), strict=True):
                outputs |= {f"{index}/{name}": value for name, value in own.items()}
        return joined

    def no_weight_decay(self) -> set[str]:
        """What either student exempts from decay."""
        return {
            f"students.{index}.{name}"
            for index, student in enumerate(students_of(self))
            for name in student.no_weight_decay()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualLosses:
    """The losses of both students, and `weight` times T² KL(other || own) for each, the other's logits detached."""

    students: tuple[WeightedLosses, WeightedLosses]
    weight: float
    temperature: float

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """None is balanced against another: that is for one student."""
        return ()

    @property
    def queues(self) -> Queues:
        """Those of both, see `for_run`."""
        return self.students[0].queues

    def for_run(self, num_steps: int) -> "MutualLosses":
        """The same at the start of a run of so many steps, with queues that both keep in one place."""
        first, second = (each.for_run(num_steps) for each in self.students)
        second = replace(second, queues=first.queues, first_queue=len(first.losses))
        return replace(self, students=(first, second))

    def kept(self, sample_ids_B: NDArray[np.uint64], *, step: int) -> Kept:
        """Each teacher teaches all samples: dropout is for one student."""
        return ALL_KEPT

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        labels: Labels,
        targets: Targets,
        *,
        kept: Kept = ALL_KEPT,
        step: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over both, and each unweighted term (detached) by the student's index and its name."""
        totals: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for index, losses in enumerate(self.students):
            own = {name.removeprefix(f"{index}/"): value for name, value in outputs.items() if _is_of(name, index)}
            total, found = losses(own, labels, targets, kept=kept, step=step)
            other_BK = outputs[f"{1 - index}/logits"].detach()
            mutual = kd_loss(own["logits"], other_BK, temperature=self.temperature)
            totals.append(total + self.weight * mutual)
            terms |= {f"{index}/{name}": value for name, value in found.items()}
            terms[f"{index}/mutual"] = mutual.detach()
        return totals[0] + totals[1], terms


def students_of(network: StudentModel | MutualStudents) -> tuple[StudentModel, ...]:
    """The students that are trained as one network: one, or both."""
    if isinstance(network, StudentModel):
        return (network,)
    students = tuple(network.students)
    return tuple(each for each in students if isinstance(each, StudentModel))


def own_history(history: Sequence[Mapping[str, float]], index: int) -> list[dict[str, float]]:
    """What a loop over both has told of one student, its terms by their plain names; top-1 is measured of the first."""
    found = []
    for entry in history:
        own = {name.removeprefix(f"{index}/"): value for name, value in entry.items() if _is_of(name, index)}
        shared = {name: value for name, value in entry.items() if "/" not in name}
        if index:
            shared = {name: value for name, value in shared.items() if "_top1" not in name}
        found.append({**shared, **own})
    return found


def own_weights(weights: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The weights of one student among those of both."""
    prefix = f"students.{index}."
    return {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}


def _is_of(name: str, index: int) -> bool:
    return name.startswith(f"{index}/")

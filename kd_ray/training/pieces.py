"""A batch cut into pieces by its samples, for gradients that are accumulated."""

from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from kd_ray.training.batches import Batch, Part
from kd_ray.training.encoded import EncodedTargets
from kd_ray.training.losses.labels import Labels


def pieces_of(batch: Batch, *, count: int) -> list[Batch]:
    """`count` batches of as equal size as can be; all views of one sample stay together.

    With fewer samples than `count` there are as many pieces as samples.
    """
    count = min(count, batch.num_images)
    if count == 1:
        return [batch]
    bounds = [batch.num_images * number // count for number in range(count + 1)]
    return [
        Batch(
            parts=tuple(_rows(part, start, stop, of=batch.num_images) for part in batch.parts), num_images=stop - start
        )
        for start, stop in pairwise(bounds)
    ]


def _rows(part: Part, start: int, stop: int, *, of: int) -> Part:
    """The views of the images from `start` to `stop` of `of`, each with as many."""
    per_image = len(part) // of
    rows = slice(start * per_image, stop * per_image)
    labels = part.labels
    return replace(
        part,
        inputs_BCHW=part.inputs_BCHW[rows],
        labels=Labels(own_B=labels.own_B[rows], partner_B=labels.partner_B[rows], weights_B=labels.weights_B[rows]),
        targets={key: _target_rows(each, rows) for key, each in part.targets.items()},
        sample_ids_B=part.sample_ids_B[rows],
        view_indices_B=part.view_indices_B[rows],
    )


def _target_rows(target: Tensor | EncodedTargets, rows: slice) -> Tensor | EncodedTargets:
    if isinstance(target, Tensor):
        return target[rows]
    return replace(target, arrays={name: array[rows] for name, array in target.arrays.items()})

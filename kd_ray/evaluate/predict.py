"""Logits of a model over a split, each image seen once through the evaluation view.

Shape letters: B batch, K classes, N samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_ray.cache.replay import Replay, columns_for
from kd_ray.config.models import Input
from kd_ray.config.views import EVALUATION_VIEW_SEED, Policy
from kd_ray.corpus.packed import Column, PackedCorpus, Rows
from kd_ray.corpus.source import SplitName
from kd_ray.evaluate.seen_split import SeenSplit
from kd_ray.models.pixels import to_input


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Parallel arrays over the samples looked at: ids [N], labels [N] (-1 where there is none), logits [N, K].

    They may be another output with one vector a sample, such as summaries.
    """

    sample_ids: NDArray[np.uint64]
    labels: NDArray[np.int64]
    logits_NK: NDArray[np.float32]


def predict(
    logits_of: Callable[[Tensor], Tensor],
    corpus: PackedCorpus,
    *,
    split: SplitName,
    policy: Policy,
    size: Input,
    batch_size: int,
    device: torch.device,
    part: int = 0,
    num_parts: int = 1,
    seen: SeenSplit | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Predictions for the row groups of `split` that belong to `part` of `num_parts`.

    Raises:
        ViewMismatch: of the share that is compared, a view is not the one that a teacher has `seen`.
    """
    ids, labels, logits = [], [], []
    with torch.inference_mode():
        for place, rows in _row_groups(corpus, split, part=part, num_parts=num_parts, columns=columns_for(policy)):
            replay = Replay(rows, policy=policy, seed=EVALUATION_VIEW_SEED)
            for start in range(0, len(rows.images), batch_size):
                numbers = range(start, min(start + batch_size, len(rows.images)))
                views = [replay.view(row, 0) for row in numbers]
                if seen is not None:
                    for row, view in zip(numbers, views, strict=True):
                        seen.check(view, place, row=row, sample_id=int(rows.sample_ids[row]))
                pixels_BHWC = np.stack([view.render(size.size_px, size.interpolation) for view in views])
                logits.append(logits_of(to_input(pixels_BHWC, size).to(device)).float().cpu().numpy())
                if on_batch is not None:
                    on_batch(len(views))
            ids.append(rows.sample_ids)
            labels.append(rows.labels.astype(np.int64))
    return Predictions(
        sample_ids=np.concatenate(ids) if ids else np.zeros(0, np.uint64),
        labels=np.concatenate(labels) if labels else np.zeros(0, np.int64),
        logits_NK=np.concatenate(logits) if logits else np.zeros((0, 0), np.float32),
    )


def evaluating(module: nn.Module) -> "_Evaluating":
    """A block in which `module` is in evaluation mode; its mode comes back afterwards."""
    return _Evaluating(module)


class _Evaluating:
    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._was_training = module.training

    def __enter__(self) -> nn.Module:
        return self._module.eval()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._was_training)


def _row_groups(
    corpus: PackedCorpus, split: SplitName, *, part: int, num_parts: int, columns: tuple[Column, ...]
) -> Iterator[tuple[tuple[str, int], Rows]]:
    """Row groups by shard and number."""
    places = [(shard.name, group) for shard in corpus.shards(split) for group in range(len(shard.rows_per_group))]
    for shard, group in places[part::num_parts]:
        yield (shard, group), corpus.read_rows(shard, group, group + 1, columns=columns)

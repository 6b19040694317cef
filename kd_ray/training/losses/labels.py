"""Labels of a batch, mixed or not, and the cross-entropy with them.

Shape letters: B batch, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NO_LABEL = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels [B] and those of the partners of mixed views [B], NO_LABEL for none; the first ones' weights [B]."""

    own_B: Tensor
    partner_B: Tensor
    weights_B: Tensor

    @classmethod
    def unmixed(cls, labels_B: Tensor) -> "Labels":
        """Labels of views that are not mixed."""
        weights_B = torch.ones(labels_B.shape, dtype=torch.float32, device=labels_B.device)
        return cls(own_B=labels_B, partner_B=torch.full_like(labels_B, NO_LABEL), weights_B=weights_B)

    def to(self, device: torch.device) -> "Labels":
        """The same on `device`."""
        own_B, partner_B, weights_B = (
            each.to(device, non_blocking=True) for each in (self.own_B, self.partner_B, self.weights_B)
        )
        return Labels(own_B=own_B, partner_B=partner_B, weights_B=weights_B)


def cross_entropy_loss(logits_BK: Tensor, labels: Labels, *, label_smoothing: float) -> Tensor:
    """Cross-entropy in float32, averaged over the whole batch; a sample without a label (NO_LABEL) counts 0.

    A mixed view's two labels count with the weights of its two images (Zhang et al. 2018, mixup). Dividing by the
    labelled samples alone would make the mean over workers depend on how many workers share a batch.
    """

    def each(labels_B: Tensor) -> Tensor:
        return F.cross_entropy(
            logits_BK.float(), labels_B, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
        )

    weights_B = labels.weights_B.float()
    mixed_B = weights_B * each(labels.own_B) + (1.0 - weights_B) * each(labels.partner_B)
    return mixed_B.sum() / len(mixed_B)

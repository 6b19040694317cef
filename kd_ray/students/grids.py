"""A student's map at the places of a teacher's cells, where their grids cover different parts of a view.

A grid covers more than the view where a network pads it to whole cells, and less where the last pixels are left out.
Shape letters: B batch, H and W a grid, h and w another, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_ray.students.heads import resample_grid

Cover = tuple[float, float]
"""How far a grid reaches, from the upper left corner of the view: shares of its height and width."""

WHOLE: Cover = (1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetGrid:
    """The cells of a target: `size` (rows, columns) and `cover` of its grid, and `own_cover` of the student's."""

    size: tuple[int, int]
    cover: Cover = WHOLE
    own_cover: Cover = WHOLE

    @property
    def is_shifted(self) -> bool:
        """Whether the same share of both grids is another place of the view."""
        return self.cover != self.own_cover

    def resample(self, features_BHWD: Tensor) -> Tensor:
        """The student's map [B, h, w, D] at the target's cells: bilinear at their centres, averaging where an axis has
        fewer cells than the student's; beyond the student's outermost centres the nearest cell.
        """
        if not self.is_shifted:
            return resample_grid(features_BHWD, self.size)
        rows_hH, columns_wW = (
            self._weights(axis, features_BHWD.shape[1 + axis]).to(features_BHWD) for axis in range(2)
        )
        return torch.einsum("hH,wW,BHWD->BhwD", rows_hH, columns_wW, features_BHWD)

    def valid(self) -> Tensor:
        """[h, w]: whether a cell's centre lies in the view and in what the student's grid covers of it."""
        rows_h, columns_w = (self._centers(axis) <= min(1.0, self.own_cover[axis]) for axis in range(2))
        return rows_h[:, None] & columns_w[None, :]

    def _centers(self, axis: int) -> Tensor:
        """In shares of the view."""
        return (torch.arange(self.size[axis], dtype=torch.float64) + 0.5) * (self.cover[axis] / self.size[axis])

    def _weights(self, axis: int, num_own: int) -> Tensor:
        """[cells, own cells], each row summing to 1: a triangle over the own cells that one cell of the target merges,
        as in `torch.nn.functional.interpolate(antialias=True)`.
        """
        own_cell = self.own_cover[axis] / num_own
        places = (self._centers(axis) / own_cell - 0.5).clamp(0.0, num_own - 1.0)
        reach = max(1.0, self.cover[axis] / self.size[axis] / own_cell)
        distances = (torch.arange(num_own, dtype=torch.float64)[None, :] - places[:, None]).abs()
        weights = (1.0 - distances / reach).clamp_min(0.0)
        return weights / weights.sum(dim=1, keepdim=True)

"""The views of packed rows: decoded, drawn, and with the partners of their row group where they are mixed."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from kd_ray.config.views import Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.images.masks import decode_mask
from kd_ray.corpus.packed import COLUMNS, Column, Rows
from kd_ray.errors import CorpusError
from kd_ray.views import View, ViewParams, draw, draw_mixed, mix_of
from kd_ray.views.color import Pixels
from kd_ray.views.draw_padding_crops import Mask

MAX_KEPT_BYTES = 256 << 20  # of decoded images


def columns_for(*policies: Policy) -> tuple[Column, ...]:
    """What must be read of rows whose views are replayed under all these policies."""
    return (*COLUMNS, "mask") if any(policy.reads_masks for policy in policies) else COLUMNS


class Replay:
    """The views of `rows` under one policy and seed; threads may ask at the same time, in any order.

    The rows have been read with `columns_for` the policy. Where views are mixed, decoded images are kept for the
    partners that follow, up to `max_kept_bytes`.
    """

    def __init__(self, rows: Rows, *, policy: Policy, seed: int, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._rows = rows
        self._policy = policy
        self._seed = seed
        self._starts = np.concatenate([[0], np.cumsum(rows.rows_per_group)])
        num_kept = 0 if policy.mix is None else _num_images(rows, max_kept_bytes)
        self._image = lru_cache(maxsize=num_kept)(lambda row: decode(rows.images[row]))
        self._mask = lru_cache(maxsize=num_kept)(self._decoded_mask)

    def views(self, row: int, view_indices: Iterable[int], *, image_HW3: Pixels | None = None) -> list[View]:
        """Some views of one row, whose image is decoded once; not at all where the caller has it.

        Raises:
            BadImage: a packed image does not decode.
            CorpusError: the policy needs a mask that the row does not have.
        """
        if image_HW3 is None:
            image_HW3 = self._image(row)
        if self._policy.mix is None:
            mask_HW = self._mask(row)
            return [
                View(
                    params=self._unmixed(row, index, image_HW3, mask_HW),
                    image_HW3=image_HW3,
                    renderer_version=self._policy.renderer_version,
                )
                for index in view_indices
            ]
        return [self._mixed(row, index, image_HW3) for index in view_indices]

    def view(self, row: int, view_index: int) -> View:
        """One view of one row; raises what `views` does."""
        return self.views(row, (view_index,))[0]

    def _decoded_mask(self, row: int) -> Mask | None:
        """None where the policy looks at no mask."""
        if not self._policy.reads_masks:
            return None
        data = self._rows.masks[row]
        if data is None:
            raise CorpusError(
                f"sample {int(self._rows.sample_ids[row]):016x}: has no mask, and cat_max_ratio of policy "
                f"{self._policy.name} places its crop by one. Give it a mask, or set cat_max_ratio: null."
            )
        return decode_mask(data)

    def _unmixed(self, row: int, view_index: int, image_HW3: Pixels, mask_HW: Mask | None) -> ViewParams:
        return draw(
            self._policy,
            seed=self._seed,
            sample_id=int(self._rows.sample_ids[row]),
            view_index=view_index,
            image_size_px=(image_HW3.shape[0], image_HW3.shape[1]),
            mask_HW=mask_HW,
        )

    def _mixed(self, row: int, view_index: int, image_HW3: Pixels) -> View:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        start = int(self._starts[group])
        members = self._rows.sample_ids[start : int(self._starts[group + 1])].tolist()
        images = {row - start: image_HW3}  # by place: its own, and the partner's once it is known

        def image_size_px(place: int) -> tuple[int, int]:
            if place not in images:
                images[place] = self._image(start + place)
            return images[place].shape[0], images[place].shape[1]

        params = draw_mixed(
            self._policy,
            seed=self._seed,
            view_index=view_index,
            place=row - start,
            members=members,
            image_size_px=image_size_px,
            mask=lambda place: self._mask(start + place),
        )
        mix = mix_of(params)
        partner_HW3 = None if mix is None else images[members.index(mix.partner)]
        return View(
            params=params,
            image_HW3=image_HW3,
            partner_HW3=partner_HW3,
            renderer_version=self._policy.renderer_version,
        )


def _num_images(rows: Rows, max_bytes: int) -> int:
    """How many of the largest image fit; at least the two of one view."""
    largest = int(rows.sizes_px.prod(axis=1, dtype=np.int64).max(initial=1)) * 3
    return max(2, min(max_bytes // largest, len(rows.images)))

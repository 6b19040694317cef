"""Packed rows under a policy, and everything that is to be the same of their views wherever they are replayed."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from kd_ray.cache.replay import Replay
from kd_ray.config.operations import Interpolation
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import Rows
from kd_ray.views import View, params_to_json, prove
from kd_ray.views.draw_padding_crops import Mask
from tests.support.stored_images import StoredImage, stored_images
from tests.support.view_strategies import interpolations, policies, preset_policies, sizes_px

NUM_VIEWS = 3

Sample = tuple[int, StoredImage]
Seen = tuple[str, str, str]
"""Params as JSON, digest, hash of the pixels at the case's size."""


@dataclass(frozen=True, slots=True)
class ViewCase:
    """Row groups of (sample id, image), a policy and a seed, and the size at which a model sees the views."""

    groups: tuple[tuple[Sample, ...], ...]
    policy: Policy
    seed: int
    size_px: tuple[int, int]
    interpolation: Interpolation

    def replay(self) -> Replay:
        return Replay(rows_of(self.groups), policy=self.policy, seed=self.seed)

    def turns(self) -> list[tuple[int, int]]:
        """(row, view index) of all views."""
        return [(row, index) for row in range(sum(map(len, self.groups))) for index in range(NUM_VIEWS)]

    def seen(self, view: View) -> Seen:
        pixels = view.render(self.size_px, self.interpolation)
        assert pixels.shape == (*self.size_px, 3)
        return (
            params_to_json(view.params),
            prove(view, policy=self.policy).digest.hex(),
            hashlib.sha256(pixels.tobytes()).hexdigest(),
        )

    def all_seen(self, turns: Iterable[tuple[int, int]] | None = None) -> dict[tuple[int, int], Seen]:
        """By (row, view index), replayed in the order of `turns`."""
        replay = self.replay()
        return {(row, index): self.seen(replay.view(row, index)) for row, index in (turns or self.turns())}


def rows_of(groups: tuple[tuple[Sample, ...], ...]) -> Rows:
    """As a packed corpus gives them."""
    samples = [sample for group in groups for sample in group]
    return Rows(
        sample_ids=np.array([sample_id for sample_id, _ in samples], dtype=np.uint64),
        labels=np.full(len(samples), -1, np.int32),
        sizes_px=np.array([image.size_px for _, image in samples], dtype=np.int32).reshape(-1, 2),
        images=[image.data() for _, image in samples],
        rows_per_group=tuple(map(len, groups)),
        masks=[_png(mask_of(sample_id)) for sample_id, _ in samples],
    )


def mask_of(sample_id: int) -> Mask:
    """A mask of four classes and some unlabelled places, [6, 9], that follows from the sample."""
    return np.random.default_rng(sample_id).choice(np.array([0, 1, 2, 3, 255], np.uint8), size=(6, 9))


def _png(mask_HW: Mask) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(mask_HW).save(sink, "PNG")
    return sink.getvalue()


@st.composite
def view_cases(
    draw: st.DrawFn,
    *,
    any_policy: st.SearchStrategy[Policy] | None = None,
    max_samples: int = 4,
) -> ViewCase:
    ids = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=max_samples, unique=True))
    samples = [(sample_id, draw(stored_images())) for sample_id in ids]
    cut = draw(st.integers(0, len(samples)))
    return ViewCase(
        groups=tuple(tuple(group) for group in (samples[:cut], samples[cut:]) if group),
        policy=draw(policies() | preset_policies() if any_policy is None else any_policy),
        seed=draw(st.integers(0, 2**31)),
        size_px=draw(sizes_px),
        interpolation=draw(interpolations),
    )

"""RandAugment and TrivialAugment: the operations, magnitudes and signs of timm and torchvision, equally often."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import v2

from kd_ray.config.operations import RandAugment, TrivialAugmentWide
from kd_ray.views import Bits, Step
from kd_ray.views.auto_augment import TIMM_NAMES, TORCHVISION_NAMES, rand_augment, trivial_augment

NUM_DRAWS = 6000
WARPS = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
# their names, without the endings that tell timm's variants, and where they differ from ours
OURS = {
    "color": "saturation",
    "shearx": "shear_x",
    "sheary": "shear_y",
    "translatex": "translate_x",
    "translatey": "translate_y",
    "translatexrel": "translate_x",
    "translateyrel": "translate_y",
    "solarizeadd": "solarize_add",
}


def our_name(theirs: str) -> str:
    plain = theirs.lower().removesuffix("increasing")
    return OURS.get(plain, plain)


def timm_steps(**fields: Any) -> list[tuple[Step, ...]]:
    operation = RandAugment(kind="rand_augment", **fields)
    return [rand_augment(operation, Bits({"draw": index}, domain="test")) for index in range(NUM_DRAWS)]


def trivial_steps() -> list[tuple[Step, ...]]:
    operation = TrivialAugmentWide(kind="trivial_augment_wide")
    return [trivial_augment(operation, Bits({"draw": index}, domain="test")) for index in range(NUM_DRAWS)]


def first_values(views: list[tuple[Step, ...]], name: str) -> np.ndarray:
    return np.array([step.values[0] for steps in views for step in steps if step.name == name])


def check_counts(counts: Counter[str], *, num_expected: float) -> None:
    """Each within 5 standard errors."""
    assert all(abs(count - num_expected) < 5 * num_expected**0.5 for count in counts.values()), counts


class TestTimm:
    def test_the_operations_are_timm_s_and_equally_often(self) -> None:
        names = [our_name(op.name) for op in rand_augment_transform("rand-m9-mstd0.5-inc1").ops]
        assert names == list(TIMM_NAMES)
        counts = Counter(step.name for steps in timm_steps() for step in steps)
        assert set(counts) == set(names)
        check_counts(counts, num_expected=NUM_DRAWS * 2 * 0.5 / len(names))

    def test_each_of_num_ops_is_applied_with_its_probability(self) -> None:
        lengths = Counter(len(steps) for steps in timm_steps(num_ops=3, probability=0.5))
        for length, share in enumerate((1 / 8, 3 / 8, 3 / 8, 1 / 8)):
            assert abs(lengths[length] - share * NUM_DRAWS) < 5 * (share * NUM_DRAWS) ** 0.5

    @pytest.mark.parametrize(
        ("string", "fields"),
        [
            ("rand-m9-mstd0.5-inc1", {"magnitude": 9, "magnitude_std": 0.5, "increasing": True}),
            ("rand-m7-mstd0.5", {"magnitude": 7, "magnitude_std": 0.5}),
            ("rand-m3-inc1", {"magnitude": 3, "increasing": True}),
        ],
    )
    def test_magnitudes_are_distributed_as_timm_s(self, string: str, fields: dict[str, Any]) -> None:
        views = timm_steps(**fields)
        random.seed(0)
        for op in rand_augment_transform(string).ops:
            if op.level_fn is None:
                continue
            ours = first_values(views, our_name(op.name))
            theirs = []
            for _ in range(4000):
                magnitude = random.gauss(op.magnitude, op.magnitude_std) if op.magnitude_std else op.magnitude
                theirs.append(op.level_fn(max(0.0, min(magnitude, 10.0)), op.hparams)[0])
            error = (np.var(ours) / len(ours) + np.var(theirs) / len(theirs)) ** 0.5
            assert abs(ours.mean() - np.mean(theirs)) <= 5 * error + 1e-12, op.name
            np.testing.assert_allclose(ours.std(), np.std(theirs), rtol=0.25, atol=1e-12, err_msg=op.name)
            np.testing.assert_allclose(
                np.abs(ours).mean(), np.abs(theirs).mean(), rtol=0.08, atol=0.02, err_msg=op.name
            )

    def test_warps_draw_a_kernel_and_fill_with_the_mean_of_imagenet(self) -> None:
        warps = [step for steps in timm_steps() for step in steps if step.name in WARPS]
        assert {step.values[1:] for step in warps} == {(124.0, 116.0, 104.0)}
        kernels = Counter(step.option for step in warps)
        assert set(kernels) == {"bilinear", "bicubic"}
        check_counts(kernels, num_expected=len(warps) / 2)


class TestTorchvision:
    @pytest.mark.parametrize("magnitude", [0, 9, 30])
    def test_values_are_those_of_rand_augment(self, magnitude: int) -> None:
        views = timm_steps(source="torchvision", magnitude=magnitude, num_ops=1)
        self.check_values(views, v2.RandAugment, [magnitude])

    def test_values_are_those_of_trivial_augment(self) -> None:
        self.check_values(trivial_steps(), v2.TrivialAugmentWide, list(range(31)))

    @pytest.mark.parametrize("views", ["rand", "trivial"])
    def test_the_operations_are_torchvision_s_and_equally_often(self, views: str) -> None:
        assert [our_name(name) for name in v2.RandAugment._AUGMENTATION_SPACE] == list(TORCHVISION_NAMES)
        assert list(v2.TrivialAugmentWide._AUGMENTATION_SPACE) == list(v2.RandAugment._AUGMENTATION_SPACE)
        drawn = timm_steps(source="torchvision", num_ops=1) if views == "rand" else trivial_steps()
        counts = Counter(steps[0].name if steps else "identity" for steps in drawn)
        assert set(counts) == set(TORCHVISION_NAMES)
        check_counts(counts, num_expected=NUM_DRAWS / len(TORCHVISION_NAMES))

    def test_all_its_operations_are_applied(self) -> None:
        views = timm_steps(source="torchvision", num_ops=2)
        num_identities = 2 * NUM_DRAWS - sum(map(len, views))
        assert abs(num_identities - 2 * NUM_DRAWS / 14) < 5 * (2 * NUM_DRAWS / 14) ** 0.5

    def test_warps_are_nearest_and_filled_with_black(self) -> None:
        warps = [step for steps in trivial_steps() for step in steps if step.name in WARPS]
        assert {(step.option, *step.values[1:]) for step in warps} == {("nearest", 0.0, 0.0, 0.0)}

    @staticmethod
    def check_values(views: list[tuple[Step, ...]], theirs: type[Any], bins: list[int]) -> None:
        """All values that theirs can draw at 224 px, and no others."""
        for their_name, (magnitudes, is_signed) in theirs._AUGMENTATION_SPACE.items():
            name = our_name(their_name)
            at_each = magnitudes(31, 224, 224)
            if at_each is None:
                continue
            found = np.unique(np.round(first_values(views, name), 5))
            values = np.array([float(at_each[chosen]) for chosen in bins])
            if name.startswith("translate"):
                is_trivial = theirs is v2.TrivialAugmentWide
                # RandAugment's are shares of the view, cut to whole pixels where it is rendered; TrivialAugment's are
                # pixels: of its float32 15.999999 we make the 16 that is meant
                values = (np.trunc(values + 1e-4) if is_trivial else values) / 224
            signed = np.concatenate([values, -values]) if is_signed else values
            if name in ("brightness", "saturation", "contrast", "sharpness"):
                signed = signed + 1.0
            if name == "solarize":
                signed = signed * 255
            expected = np.unique(np.round(signed, 5) + 0.0)
            np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=name)

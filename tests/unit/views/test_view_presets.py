"""Presets: the numbers of their sources, in a recipe as a word, and the same draws and pixels ever after."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kd_ray.config.crops import RandomScaleCrop
from kd_ray.config.operations import (
    GaussianBlur,
    PhotometricDistortion,
    RandAugment,
    RandomErasing,
    RandomGrayscale,
    RandomInterpolation,
    Solarize,
)
from kd_ray.config.presets import PRESETS
from kd_ray.config.views import (
    ColorJitter,
    HorizontalFlip,
    Mix,
    Policy,
    RandomResizedCrop,
    RendererVersion,
    ViewKind,
    Views,
)
from kd_ray.views import ViewParams, draw_mixed, mix_of, params_to_json, render
from kd_ray.views.color import Pixels

GOLDEN_FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((GOLDEN_FOLDER / "view_presets.json").read_text())
GOLDEN_PIXELS: dict[RendererVersion, dict[str, list[str]]] = {
    1: {name: [each["sha256_of_pixels"] for each in views] for name, views in GOLDEN.items()},
    2: json.loads((GOLDEN_FOLDER / "view_pixels_2.json").read_text()),
}
MEMBERS = (3, 5, 8, 13)
MASK_HW = np.zeros((75, 100), dtype=np.uint8)  # at another size than the image
MASK_HW[60:] = 1
MASK_HW[:, 80:] = 2
MASK_HW[:, 40:60] = 255  # unlabelled
NUM_VIEWS = 3


def preset(preset_name: str, **others: Any) -> Policy:
    return Policy.model_validate({"preset": preset_name, **others})


# those of one kind, and every kind of the others
POLICIES = {
    policy.of_kind(kind).name: policy.of_kind(kind) for policy in map(preset, PRESETS) for kind in policy.kind_names
}


def operation(policy: Policy | ViewKind, kind: type[Any]) -> Any:
    (found,) = [each for each in policy.operations if isinstance(each, kind)]
    return found


def view(policy: Policy, view_index: int, place: int = 1) -> ViewParams:
    return draw_mixed(
        policy,
        seed=0,
        view_index=view_index,
        place=place,
        members=MEMBERS,
        image_size_px=lambda at: (375, 500),
        mask=lambda at: MASK_HW,
    )


def pixels(image_HW3: Pixels, params: ViewParams, *, version: RendererVersion) -> Pixels:
    return render(
        image_HW3,
        params,
        size_px=(32, 32),
        interpolation="bilinear",
        renderer_version=version,
        partner_HW3=None if mix_of(params) is None else image_HW3[::-1],
    )


class TestNumbers:
    """Each preset against its source, as cited in kd_ray/config/presets.py."""

    def test_weak_is_a_crop_and_a_flip(self) -> None:
        assert [each.kind for each in preset("weak").operations] == ["random_resized_crop", "horizontal_flip"]
        assert preset("weak").mix is None

    def test_lightly(self) -> None:
        policy = preset("lightly")
        assert operation(policy, RandomResizedCrop).scale == (0.14, 1.0)
        jitter = operation(policy, ColorJitter)
        strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        assert strengths == tuple(0.5 * each for each in (0.8, 0.8, 0.4, 0.2))
        assert jitter.probability == 0.8
        assert operation(policy, GaussianBlur).sigma == (0.0, 0.1)
        assert policy.operations[3].probability == 0.2  # gray
        assert policy.mix == Mix(mixup_alpha=1.0)  # Beta(1, 1) is uniform

    def test_lightly_s_blur_does_nothing_at_its_own_size(self) -> None:
        """Nor does LightlyTrain's: a Gaussian of 0.1 px has a weight of 2e-22 one pixel away."""
        noise_HW3 = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        blurred = preset(
            "lightly", operations=[{"kind": "center_crop"}, {"kind": "gaussian_blur", "sigma": (0.1, 0.1)}]
        )
        found_HW3 = render(noise_HW3, view(blurred, 0)[:-1], size_px=(224, 224), interpolation="bilinear")
        np.testing.assert_array_equal(found_HW3, noise_HW3)

    def test_patient_mixes_every_image(self) -> None:
        policy = preset("patient")
        assert [each.kind for each in policy.operations][:2] == ["random_resized_crop", "horizontal_flip"]
        assert operation(policy, RandomResizedCrop).scale == (0.05, 1.0)
        assert operation(policy, RandomResizedCrop).ratio == (0.75, 1.33)
        assert operation(policy, RandomInterpolation).choices == ("bilinear",)
        assert policy.mix == Mix(mixup_alpha=1.0, probability=1.0)

    def test_the_paper_s(self) -> None:
        assert preset("paper_vit").mix == Mix(mixup_alpha=0.2)
        assert operation(preset("paper_vit"), RandomResizedCrop).scale == (0.08, 1.0)
        assert preset("paper_resnet").mix is None
        assert preset("paper_resnet").operations[-1].kind == "trivial_augment_wide"
        assert preset("paper_probe").operations[0].crop_fraction == 224 / 256

    def test_supergradients(self) -> None:
        """rand-m7-mstd0.5, its own copy of timm's RandAugment warping bilinearly; no erasing."""
        policy = preset("supergradients")
        augment = operation(policy, RandAugment)
        assert (augment.source, augment.magnitude, augment.magnitude_std) == ("timm", 7, 0.5)
        assert (augment.num_ops, augment.probability, augment.increasing) == (2, 0.5, False)
        assert (augment.interpolations, augment.fill) == (("bilinear",), (124, 116, 104))
        assert operation(policy, RandomInterpolation).choices == ("bilinear", "bicubic")
        assert policy.mix == Mix(mixup_alpha=0.2, cutmix_alpha=1.0)
        assert policy.repeats == 3

    def test_imagenet_strong(self) -> None:
        """rand-m9-mstd0.5-inc1, Mixup 0.8, CutMix 1, erasing 0.25 by pixels, bicubic."""
        policy = preset("imagenet_strong")
        augment = operation(policy, RandAugment)
        assert (augment.source, augment.magnitude, augment.magnitude_std) == ("timm", 9, 0.5)
        assert (augment.num_ops, augment.probability, augment.increasing) == (2, 0.5, True)
        assert augment.interpolations == ("bicubic",)
        erasing = operation(policy, RandomErasing)
        assert (erasing.probability, erasing.scale, erasing.value) == (0.25, (0.02, 1 / 3), "noise")
        assert policy.mix == Mix(mixup_alpha=0.8, cutmix_alpha=1.0)

    def test_paper_seg(self) -> None:
        """mmsegmentation's ADE20K: ratio of 0.5 to 2, cat_max_ratio 0.75, flip, its distortion by its defaults."""
        policy = preset("paper_seg")
        crop = operation(policy, RandomScaleCrop)
        assert (crop.ratio_range, crop.cat_max_ratio, crop.ignore_label) == ((0.5, 2.0), 0.75, 255)
        assert crop.max_aspect == 2048 / 512
        assert operation(policy, HorizontalFlip).probability == 0.5
        distortion = operation(policy, PhotometricDistortion)
        assert (distortion.brightness_delta, distortion.hue_delta, distortion.probability) == (32, 18, 0.5)
        assert distortion.contrast_range == distortion.saturation_range == (0.5, 1.5)
        assert policy.mix is None
        assert policy.reads_masks

    def test_dino_multicrop(self) -> None:
        """DataAugmentationDINO and the defaults of its command line."""
        kinds = preset("dino_multicrop").kinds
        told = {
            name: (kind.num_crops, kind.size_px, operation(kind, RandomResizedCrop).scale)
            for name, kind in kinds.items()
        }
        assert told == {
            "global": (1, (224, 224), (0.4, 1.0)),
            "global_solarized": (1, (224, 224), (0.4, 1.0)),
            "local": (8, (96, 96), (0.05, 0.4)),
        }
        for (name, kind), blurred in zip(kinds.items(), (1.0, 0.1, 0.5), strict=True):
            blur = operation(kind, GaussianBlur)
            assert (blur.sigma, blur.probability) == ((0.1, 2.0), blurred), name
            assert kind.size_px is not None
            assert blur.reference_px == kind.size_px[0], "PIL's radius is in pixels of the crop"
            jitter = operation(kind, ColorJitter)
            strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, jitter.probability)
            assert strengths == (0.4, 0.4, 0.2, 0.1, 0.8)
            assert operation(kind, HorizontalFlip).probability == 0.5
            assert operation(kind, RandomGrayscale).probability == 0.2
            assert operation(kind, RandomInterpolation).choices == ("bicubic",)
        solarized = operation(kinds["global_solarized"], Solarize)
        # Pillow's solarize inverts levels from 128 up
        assert (solarized.probability, math.ceil(solarized.threshold * 255)) == (0.2, 128)


class TestInARecipe:
    @pytest.mark.parametrize("name", PRESETS)
    def test_a_word_resolves_to_all_of_the_policy(self, name: str) -> None:
        policy = Views.model_validate({"policy": name}).policy
        assert policy == preset(name)
        assert policy.name == name
        assert Policy.model_validate(policy.model_dump(mode="json")) == policy

    def test_fields_beside_a_preset_override_it(self) -> None:
        policy = preset("lightly", name="mine", mix=None, digest_size_px=(16, 16))
        assert (policy.name, policy.mix, policy.digest_size_px) == ("mine", None, (16, 16))
        assert policy.operations == preset("lightly").operations

    def test_an_unknown_preset_names_the_nearest(self) -> None:
        for written in ("lightli", {"preset": "lightli"}):
            with pytest.raises(ValidationError, match=r"no preset 'lightli'; did you mean lightly\?"):
                Policy.model_validate(written)

    @pytest.mark.parametrize("written", [{"preset": 3}, {"preset": ["weak"]}, {"preset": "weak", "mixing": None}, 3])
    def test_anything_else_is_refused(self, written: Any) -> None:
        with pytest.raises(ValidationError):
            Policy.model_validate(written)

    def test_no_heavy_package_is_loaded(self) -> None:
        code = (
            "import sys, kd_ray.config.views; "
            "print(*sorted({'torch', 'ray', 'numpy', 'cv2', 'PIL', 'timm'} & set(sys.modules)))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == ""


class TestForEver:
    def test_every_preset_is_covered_and_every_kind_of_it(self) -> None:
        assert set(GOLDEN) == set(GOLDEN_PIXELS[2]) == set(POLICIES)

    @pytest.mark.parametrize("name", GOLDEN)
    def test_the_params_of_a_preset_hold_for_ever(self, name: str) -> None:
        found = [json.loads(params_to_json(view(POLICIES[name], index))) for index in range(NUM_VIEWS)]
        assert found == [each["params"] for each in GOLDEN[name]]

    @pytest.mark.parametrize("version", GOLDEN_PIXELS)
    @pytest.mark.parametrize("name", GOLDEN)
    def test_the_pixels_of_a_preset_hold_under_the_lock_file(
        self, name: str, version: RendererVersion, image_HW3: Pixels
    ) -> None:
        found = [
            hashlib.sha256(pixels(image_HW3, view(POLICIES[name], index), version=version).tobytes()).hexdigest()
            for index in range(NUM_VIEWS)
        ]
        assert found == GOLDEN_PIXELS[version][name]

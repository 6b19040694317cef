"""Digests: the same in every thread and process and on every CPU path, and a mismatch that says what to do."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import kd_ray
from kd_ray.config.views import Policy, RandomResizedCrop, RendererVersion
from kd_ray.errors import ViewMismatch
from kd_ray.views import CropParams, MixParams, Proof, Step, StepsParams, View, ViewParams, check_view, draw, prove
from kd_ray.views.color import Pixels
from kd_ray.views.digest import compare
from tests.support.shared_data import shared_data

GOLDEN_DIGESTS: dict[RendererVersion, list[str]] = {
    1: ["e905a5b04f20abd88040d8fcd6225f49", "e84d07a8d7050712d9464d5f99b87ded", "638fb6baf44e5ff0fbec18e541a7630c"],
    2: ["2e30d48d11972f00d8309c32f68583bf", "2d99f687b6cd47531e1d9b33a4e4c9e1", "4d6fbfc896dd3da495b5379eb07e336f"],
}
REPOSITORY = Path(kd_ray.__file__).parents[1]
IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from kd_ray.config.views import Policy
from kd_ray.views import View, draw, prove

policy = Policy.model_validate_json(sys.argv[1])
image_HW3 = np.frombuffer(sys.stdin.buffer.read(), dtype=np.uint8).reshape(60, 80, 3)
for index in range(12):
    params = draw(policy, seed=0, sample_id=7, view_index=index, image_size_px=(60, 80))
    view = View(params=params, image_HW3=image_HW3, renderer_version=policy.renderer_version)
    print(prove(view, policy=policy).digest.hex())
"""
NO_VECTOR_UNITS = {
    "OPENCV_IPP": "disabled",
    "OPENCV_CPU_DISABLE": "SSSE3,SSE4.1,SSE4.2,AVX,FP16,AVX2,FMA3,AVX512-SKX",
    "OPENCV_LOG_LEVEL": "OFF",
}


def proof_of(image_HW3: Pixels, params: ViewParams, policy: Policy) -> Proof:
    return prove(View(params=params, image_HW3=image_HW3, renderer_version=policy.renderer_version), policy=policy)


def digests(image_HW3: Pixels, policy: Policy) -> list[str]:
    drawn = [draw(policy, seed=0, sample_id=7, view_index=index, image_size_px=(60, 80)) for index in range(12)]
    return [proof_of(image_HW3, params, policy).digest.hex() for params in drawn]


def of_version(policy: Policy, version: RendererVersion) -> Policy:
    return policy.model_copy(update={"renderer_version": version})


@pytest.mark.parametrize("version", GOLDEN_DIGESTS)
def test_the_digests_of_a_fixed_image_are_the_committed_ones(
    version: RendererVersion, image_HW3: Pixels, strong_policy: Policy
) -> None:
    """They hold under the lock file; under another Pillow or OpenCV, a change here means new view sets."""
    assert digests(image_HW3, of_version(strong_policy, version))[:3] == GOLDEN_DIGESTS[version]


def test_threads_render_the_same(image_HW3: Pixels, strong_policy: Policy) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: digests(image_HW3, strong_policy), range(16)))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("version", GOLDEN_DIGESTS)
@pytest.mark.parametrize("environment", [{}, NO_VECTOR_UNITS], ids=["as here", "without vector units"])
def test_another_process_renders_the_same(
    environment: dict[str, str], version: RendererVersion, image_HW3: Pixels, strong_policy: Policy
) -> None:
    policy = of_version(strong_policy, version)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, policy.model_dump_json()],
        input=image_HW3.tobytes(),
        stdout=subprocess.PIPE,
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    assert done.stdout.decode().split() == digests(image_HW3, policy)


def test_the_size_is_part_of_the_digest(image_HW3: Pixels, strong_policy: Policy) -> None:
    """A white image has the same bytes at 16x64 and at 64x16."""
    wide, tall = (strong_policy.model_copy(update={"digest_size_px": size_px}) for size_px in ((16, 64), (64, 16)))
    white_HW3 = image_HW3 * 0 + 255
    params = draw(wide, seed=0, sample_id=0, view_index=0, image_size_px=(60, 80))[:1]
    assert proof_of(white_HW3, params, wide).digest != proof_of(white_HW3, params, tall).digest


def test_a_replayed_view_passes(image_HW3: Pixels, strong_policy: Policy) -> None:
    params = draw(strong_policy, seed=0, sample_id=7, view_index=1, image_size_px=(60, 80))
    stored = proof_of(image_HW3, params, strong_policy)
    view = View(params=params, image_HW3=image_HW3)
    assert check_view(view, stored, params, policy=strong_policy, sample_id=7, view_index=1) == "same"


def test_a_changed_image_is_named_with_both_digests(image_HW3: Pixels, strong_policy: Policy) -> None:
    params = draw(strong_policy, seed=0, sample_id=7, view_index=1, image_size_px=(60, 80))
    stored = proof_of(image_HW3, params, strong_policy)
    changed_HW3 = 255 - image_HW3
    changed = View(params=params, image_HW3=changed_HW3)
    with pytest.raises(ViewMismatch) as caught:
        check_view(changed, stored, params, policy=strong_policy, sample_id=0xAB, view_index=3)
    message = str(caught.value)
    assert message.startswith("sample 00000000000000ab, view 3: ")
    assert stored.digest.hex() in message
    assert proof_of(changed_HW3, params, strong_policy).digest.hex() in message


def test_other_params_are_another_view_even_with_equal_pixels(image_HW3: Pixels, strong_policy: Policy) -> None:
    """A blur that does nothing at the digest's size is seen at the teacher's."""
    params = draw(strong_policy, seed=0, sample_id=7, view_index=1, image_size_px=(60, 80))
    blurred = (*params, StepsParams(steps=(Step(name="gaussian_blur", values=(0.001,), option=None),)))
    view = View(params=blurred, image_HW3=image_HW3)
    stored = proof_of(image_HW3, params, strong_policy)
    assert compare(prove(view, policy=strong_policy), stored) == "same"
    with pytest.raises(ViewMismatch, match=r"its params are StepsParams\(.*gaussian_blur.*, stored are None"):
        check_view(view, stored, params, policy=strong_policy, sample_id=7, view_index=1)


class TestAnotherDecoder:
    """A few levels of rounding a pixel are told apart from another view by the thumbnail."""

    @pytest.fixture
    def photographs(self) -> list[Pixels]:
        files = sorted(shared_data("camvid").rglob("*.jp*g"))[::60]
        assert files
        return [np.array(Image.open(path).convert("RGB")) for path in files]

    def test_rounding_is_not_taken_for_another_view(self, photographs: list[Pixels], strong_policy: Policy) -> None:
        random = np.random.default_rng(0)
        for image_HW3 in photographs:
            noise_HW3 = random.integers(-2, 3, image_HW3.shape)
            rounded_HW3 = np.clip(image_HW3 + noise_HW3, 0, 255).astype(np.uint8)
            for index in range(8):
                size_px = (image_HW3.shape[0], image_HW3.shape[1])
                params = draw(strong_policy, seed=0, sample_id=7, view_index=index, image_size_px=size_px)
                stored = proof_of(image_HW3, params, strong_policy)
                view = View(params=params, image_HW3=rounded_HW3)
                assert (
                    check_view(view, stored, params, policy=strong_policy, sample_id=7, view_index=index) == "rounding"
                )

    @pytest.mark.parametrize(
        "step",
        [
            Step(name="solarize", values=(100.0,), option=None),
            Step(name="posterize", values=(1.0,), option=None),
            Step(name="equalize", values=(), option=None),
        ],
        ids=lambda step: step.name,
    )
    def test_tone_steps_do_not_make_another_view_of_rounding(self, step: Step, photographs: list[Pixels]) -> None:
        """They turn one level into tens, beyond what a fixed limit of the thumbnail can allow."""
        policy, steps = Policy.model_validate("weak"), StepsParams(steps=(step,))
        random = np.random.default_rng(1)
        beyond_the_limit = 0
        for image_HW3 in photographs:
            rounded_HW3 = np.clip(image_HW3 + random.integers(-2, 2, image_HW3.shape), 0, 255).astype(np.uint8)
            for index in range(8):
                size_px = (image_HW3.shape[0], image_HW3.shape[1])
                params = (*draw(policy, seed=0, sample_id=7, view_index=index, image_size_px=size_px), steps)
                stored = proof_of(image_HW3, params, policy)
                view = View(params=params, image_HW3=rounded_HW3)
                assert check_view(view, stored, params, policy=policy, sample_id=7, view_index=index) != "different"
                beyond_the_limit += compare(prove(view, policy=policy), stored) == "different"
                upside_down = View(params=params, image_HW3=np.ascontiguousarray(image_HW3[::-1]))
                with pytest.raises(ViewMismatch, match="decoder"):
                    check_view(upside_down, stored, params, policy=policy, sample_id=7, view_index=index)
        assert beyond_the_limit

    def test_both_images_of_a_mixed_view_went_through_the_decoder(self, photographs: list[Pixels]) -> None:
        policy = Policy.model_validate("weak")
        one_HW3, other_HW3 = (image_HW3[:360, :480] for image_HW3 in photographs[:2])
        solarized = StepsParams(steps=(Step(name="solarize", values=(128.0,), option=None),))
        posterized = StepsParams(steps=(Step(name="posterize", values=(1.0,), option=None),))
        beyond_the_limit = 0
        for index in range(8):
            of_one, of_other = (
                (*draw(policy, seed=0, sample_id=each, view_index=index, image_size_px=(360, 480)), steps)
                for each, steps in ((0, solarized), (1, posterized))
            )
            mix = MixParams(partner=1, partner_params=of_other, weight=0.25, box=None)
            view = View(params=(*of_one, mix), image_HW3=one_HW3, partner_HW3=other_HW3)
            stored = prove(view, policy=policy)
            darker = replace(view, image_HW3=cv2.subtract(one_HW3, 2), partner_HW3=cv2.subtract(other_HW3, 2))
            found = check_view(darker, stored, view.params, policy=policy, sample_id=0, view_index=index)
            assert found == "rounding"
            beyond_the_limit += compare(prove(darker, policy=policy), stored) == "different"
        assert beyond_the_limit

    def test_the_next_view_is_another_one(self, photographs: list[Pixels], strong_policy: Policy) -> None:
        for image_HW3 in photographs:
            size_px = (image_HW3.shape[0], image_HW3.shape[1])
            proofs = [
                proof_of(
                    image_HW3,
                    draw(strong_policy, seed=0, sample_id=7, view_index=index, image_size_px=size_px),
                    strong_policy,
                )
                for index in range(8)
            ]
            assert {compare(one, other) for one, other in combinations(proofs, 2)} == {"different"}

    def test_a_box_that_is_off_by_a_fiftieth_is_another_view(self, photographs: list[Pixels]) -> None:
        policy = Policy(name="box", operations=(RandomResizedCrop(kind="random_resized_crop"),))
        box = CropParams(left=0.2, top=0.2, width=0.5, height=0.5)
        found = [
            compare(
                proof_of(image_HW3, (box,), policy), proof_of(image_HW3, (replace(box, left=box.left + 0.02),), policy)
            )
            for image_HW3 in photographs
        ]
        assert found == ["different"] * len(found)

    def test_without_a_thumbnail_only_equal_pixels_pass(self) -> None:
        one, other = (Proof(digest=bytes([i] * 16), thumbnail=None) for i in (1, 2))
        assert compare(one, one) == "same"
        assert compare(one, other) == "different"
        assert compare(replace(one, thumbnail=bytes(192)), other) == "different"

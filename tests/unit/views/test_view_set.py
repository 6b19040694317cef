"""The identity of a view set: what changes it, and what does not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy, RendererVersion
from kd_ray.errors import FingerprintMismatch
from kd_ray.storage import digest_of_json
from kd_ray.storage.base import canonical_json
from kd_ray.views import policy_identity, policy_of, renderer_versions, view_set_identity
from tests.support.view_strategies import policies, preset_policies

GOLDEN_FINGERPRINTS: dict[RendererVersion, str] = {
    1: "d5389709e69a7bd3867c71cd26733c3cc5f6d6448917421c34c8ed1f4e5a3171",
    2: "644d144a86656b40fc4ca8754c21f80d69d1c30592f64ca98a7408f01adc5a6f",
}


def fingerprint(policy: Policy, **changes: Any) -> str:
    return digest_of_json(view_set_identity(policy, **{"seed": 0, "corpus_id": "c0ffee", "split": "train", **changes}))


@pytest.mark.parametrize("version", GOLDEN_FINGERPRINTS)
def test_the_fingerprint_of_a_fixed_view_set_never_changes(version: RendererVersion, strong_policy: Policy) -> None:
    policy = strong_policy.model_copy(update={"renderer_version": version})
    assert fingerprint(policy) == GOLDEN_FINGERPRINTS[version]


def test_version_2_is_the_one_that_is_not_named(strong_policy: Policy) -> None:
    assert fingerprint(strong_policy) == GOLDEN_FINGERPRINTS[2]


@pytest.mark.parametrize("change", [{"seed": 1}, {"corpus_id": "beef"}, {"split": "extra"}])
def test_seed_corpus_and_split_decide(strong_policy: Policy, change: dict[str, Any]) -> None:
    assert fingerprint(strong_policy, **change) != fingerprint(strong_policy)


@pytest.mark.parametrize("change", [{"digest_size_px": (16, 16)}, {"operations": ()}, {"renderer_version": 1}])
def test_the_policy_decides(strong_policy: Policy, change: dict[str, Any]) -> None:
    other = strong_policy.model_copy(update=change)
    assert fingerprint(other) != fingerprint(strong_policy)


def test_the_name_is_a_label(strong_policy: Policy) -> None:
    assert fingerprint(strong_policy.model_copy(update={"name": "other"})) == fingerprint(strong_policy)


def test_library_versions_are_recorded_and_not_hashed(strong_policy: Policy) -> None:
    assert renderer_versions().keys() == {
        "numpy",
        "opencv",
        "pillow",
        "pillow_libjpeg_turbo",
        "pillow_libwebp",
    }
    identity = view_set_identity(strong_policy, seed=0, corpus_id="c0ffee", split="train")
    assert not renderer_versions().keys() & identity.keys()


def test_masks_decide_where_the_policy_reads_them() -> None:
    policy = Policy.model_validate("paper_seg")
    assert fingerprint(policy, masks_id="one") != fingerprint(policy, masks_id="other")
    with pytest.raises(AssertionError, match="masks decide views"):
        fingerprint(policy)


KEPT = KeptFormat(size_px=(224, 224), codec="jpeg", quality=95)
GOLDEN_KEPT_FINGERPRINT = "8dbae69ec6753fbbd8ae262c205d4d22cd1f19f2d3d3e7a6ec6f5db7cd0314dd"


def test_the_fingerprint_of_a_fixed_view_set_with_kept_pixels_never_changes(strong_policy: Policy) -> None:
    policy = strong_policy.model_copy(update={"renderer_version": 1})
    assert fingerprint(policy, kept=KEPT) == GOLDEN_KEPT_FINGERPRINT


def test_size_codec_and_quality_decide(strong_policy: Policy) -> None:
    others = [
        None,
        KEPT,
        replace(KEPT, size_px=(224, 256)),
        replace(KEPT, codec="webp"),
        replace(KEPT, quality=90),
        replace(KEPT, codec="raw", quality=None),
    ]
    assert len({fingerprint(strong_policy, kept=kept) for kept in others}) == len(others)


kept_formats = st.builds(
    KeptFormat, size_px=st.just((8, 9)), codec=st.sampled_from(["webp", "jpeg"]), quality=st.integers(1, 100)
)


@settings(max_examples=60)
@given(policies() | preset_policies(), st.none() | kept_formats)
def test_a_policy_comes_back_from_the_identity(policy: Policy, kept: KeptFormat | None) -> None:
    masks_id = "a digest" if policy.reads_masks else None
    identity = view_set_identity(policy, seed=5, corpus_id="c0", split="val", masks_id=masks_id, kept=kept)
    stored = json.loads(canonical_json(identity))
    found, found_kept = policy_of(stored, name=policy.name)
    assert policy_identity(found) == policy_identity(policy)
    assert (found.digest_size_px, found.renderer_version) == (policy.digest_size_px, policy.renderer_version)
    assert found_kept == kept


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"policy": {"operations": [{"kind": "swirl"}]}}, "does not know"),
        ({"renderer": 99}, "does not know"),
        ({"draw": "another"}, "draw 'another'"),
    ],
)
def test_a_policy_of_another_version_is_refused(strong_policy: Policy, change: dict[str, Any], told: str) -> None:
    identity = view_set_identity(strong_policy, seed=0, corpus_id="c0", split="train")
    with pytest.raises(FingerprintMismatch, match=told):
        policy_of({**identity, **change}, name="strong")

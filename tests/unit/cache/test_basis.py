"""A basis keeps the share of the variance that is asked for in as few numbers as can be, and tells what is left out."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.cache import basis
from kd_ray.cache.basis import Basis
from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding
from kd_ray.config.outputs import Codec, TargetOutput
from kd_ray.errors import CacheCorrupt, ExtractionError

SHARES = [0.5, 0.9, 0.99, 0.9999]
Floats = NDArray[np.float32]


def features(count: int, width: int, *, seed: int = 0) -> Floats:
    """Variances that fall by half from direction to direction, far from zero."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(count, width)) * 2.0 ** (-0.5 * np.arange(width))
    return (hidden @ np.linalg.qr(random.normal(size=(width, width)))[0] + 50).astype(np.float32)


def lost_share(exact: NDArray[Any], decoded: NDArray[Any]) -> float:
    exact_XD = exact.reshape(-1, exact.shape[-1]).astype(np.float64)
    errors = ((decoded.reshape(exact_XD.shape) - exact_XD) ** 2).sum()
    return float(errors / ((exact_XD - exact_XD.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("share", SHARES)
def test_it_has_the_fewest_directions_that_explain_the_share(share: float) -> None:
    values_XD = features(300, 20)
    found = Basis.of(values_XD, explained_variance=share, what="x")
    variances = np.sort(np.linalg.eigvalsh(np.cov(values_XD.astype(np.float64).T)))[::-1]
    explained = np.cumsum(variances) / variances.sum()
    k = len(found.directions_kD)
    assert explained[k - 1] >= share
    assert k == 1 or explained[k - 2] < share
    assert found.unexplained == pytest.approx(1 - explained[k - 1], rel=1e-4, abs=1e-9)
    assert lost_share(values_XD, found.values(found.coefficients(values_XD))) == pytest.approx(
        found.unexplained, rel=1e-2, abs=1e-9
    )


@pytest.mark.parametrize("share", SHARES)
def test_its_coefficients_vary_alike_and_its_directions_are_orthonormal(share: float) -> None:
    values_XD = features(300, 20)
    found = Basis.of(values_XD, explained_variance=share, what="x")
    gram = found.directions_kD @ found.directions_kD.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=1e-6)
    variances = found.coefficients(values_XD).astype(np.float64).var(axis=0)
    np.testing.assert_allclose(variances, variances.mean(), rtol=1e-4)


def test_of_very_many_tokens_some_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "MAX_TOKENS", 100)
    monkeypatch.setattr(basis, "TOKENS_AT_ONCE", 7)
    values_XD = features(350, 5)
    found = Basis.of(values_XD, explained_variance=0.9, what="x")
    assert found.num_tokens == 88  # every 4th
    np.testing.assert_allclose(found.center_D, values_XD[::4].mean(axis=0), rtol=1e-5)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ExtractionError, match="x: a basis of 20 channels cannot be told from 20 tokens"):
        Basis.of(features(20, 20), explained_variance=0.9, what="x")
    assert Basis.of(features(21, 20), explained_variance=0.9, what="x").num_tokens == 21


def test_what_never_varies_is_refused() -> None:
    with pytest.raises(ExtractionError, match="x: no channel varies over 9 tokens"):
        Basis.of(np.full((9, 2), 0.5, np.float32), explained_variance=0.9, what="x")


@pytest.mark.parametrize(("codec", "added"), [("float32", 1e-9), ("float16", 1e-5), ("bfloat16", 1e-4), ("int8", 1e-3)])
def test_a_codec_of_coefficients_loses_what_both_lose_and_takes_fewer_bytes(codec: Codec, added: float) -> None:
    coding = Coding(codec=codec, shape=(2, 3, 16), explained_variance=0.9)
    values_VND = features(2 * 10 * 6, 16).reshape(2, 10, 2, 3, 16)
    calibration = coding.calibrate(values_VND, what="x")
    again = Calibration.from_json(calibration.to_json(), location="x")
    assert calibration.basis is not None
    assert again.to_json() == calibration.to_json()
    arrays = coding.encode(values_VND, calibration=again, what="x")
    num_coefficients = len(calibration.basis.directions_kD)
    assert arrays["values"].shape == (2, 10, 2, 3, num_coefficients)
    assert num_coefficients < 6
    assert sum(each.nbytes for each in arrays.values()) == 20 * coding.as_stored(again).bytes_per_view
    assert coding.as_stored(again).bytes_per_view < coding.bytes_per_view
    decoded = coding.decode(arrays, calibration=again)
    assert decoded.shape == values_VND.shape
    assert decoded.dtype == np.float32
    unexplained = calibration.basis.unexplained
    assert unexplained * 0.99 < lost_share(values_VND, decoded) < unexplained + added


def test_a_damaged_basis_is_corrupt() -> None:
    coding = Coding(codec="float32", shape=(4,), explained_variance=0.9)
    data = coding.calibrate(features(9, 4), what="x").to_json()
    place = data.index(b"directions") + 20
    changed = data[:place] + (b"A" if data[place : place + 1] != b"A" else b"B") + data[place + 1 :]
    with pytest.raises(CacheCorrupt, match="x: is not a readable calibration"):
        Calibration.from_json(changed, location="x")


def test_only_outputs_that_have_one_are_told_by_it() -> None:
    plain = Coding.of(TargetOutput(codec="float16"), (4,))
    assert plain.identity() == {}
    reduced = Coding.of(TargetOutput.model_validate({"basis": {"explained_variance": 0.9}}), (4,))
    assert reduced.identity()["basis"]["explained_variance"] == 0.9
    identity = {"codec": "float16", "shape": [4], **reduced.identity()}
    assert Coding.from_identity(identity) == reduced

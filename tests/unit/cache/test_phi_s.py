"""PHI-S by what it must do: every channel varies alike, by 1, and nothing but a rotation and one factor is applied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd_ray.cache.hadamard import hadamard, spreading
from kd_ray.cache.phi_s import PhiS, principal_directions
from kd_ray.cache.second_moments import SecondMoments
from kd_ray.errors import CacheCorrupt, ExtractionError

WIDTHS = [1, 2, 3, 4, 7, 12, 52, 64, 92, 192]
WIDE = [pytest.param(width, marks=pytest.mark.slow) for width in (384, 768, 1000, 1536)]
KNOWN = (192, 320, 384, 512, 576, 640, 768, 1152, 1280)


def tokens(count: int, width: int, *, rank: int | None = None, seed: int = 0) -> NDArray[np.float32]:
    """Correlated channels far from zero, whose spreads differ ten-thousandfold."""
    random = np.random.default_rng(seed)
    rank = width if rank is None else rank
    hidden = random.normal(size=(count, rank)) * 10.0 ** random.uniform(-2, 2, rank)
    mixing = np.linalg.qr(random.normal(size=(width, width)))[0][:rank]
    return (hidden @ mixing + random.normal(size=width) * 10).astype(np.float32)


def transform(values_XD: NDArray[np.float32]) -> PhiS:
    return PhiS.of(SecondMoments.of(values_XD), what="teacher summary")


def assert_standardises(found: PhiS, values_XD: NDArray[np.float32]) -> None:
    """In float64 from the stored float32 matrix, whose rounding is the tolerance."""
    width = values_XD.shape[1]
    rotation_DD = found.rotation_DD.astype(np.float64)
    np.testing.assert_allclose(rotation_DD @ rotation_DD.T, np.eye(width), rtol=0, atol=2e-6)
    moved = found.alpha * (values_XD.astype(np.float64) - found.mean_D) @ rotation_DD.T
    np.testing.assert_allclose(moved.var(axis=0), 1.0, rtol=2e-5)
    np.testing.assert_allclose(moved.mean(axis=0), 0.0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [*WIDTHS, *WIDE])
def test_every_channel_has_variance_1_and_the_map_is_a_multiple_of_a_rotation(width: int) -> None:
    values_XD = tokens(3 * width + 5, width)
    found = transform(values_XD)
    assert_standardises(found, values_XD)
    assert found.rank == width


@pytest.mark.parametrize(("width", "rank"), [(7, 3), (64, 1), (52, 20)])
def test_so_it_is_where_most_directions_are_dead(width: int, rank: int) -> None:
    values_XD = tokens(4 * width, width, rank=rank).astype(np.float32)
    values_XD[:, 0] = 3.0  # and one channel
    assert_standardises(transform(values_XD), values_XD)


@pytest.mark.parametrize("width", [7, 64, 92])
def test_so_it_is_over_fewer_tokens_than_channels(width: int) -> None:
    values_XD = tokens(width // 2, width)
    found = transform(values_XD)
    assert_standardises(found, values_XD)
    assert found.rank == width // 2 - 1  # the mean takes one


def test_what_never_varies_is_refused() -> None:
    with pytest.raises(ExtractionError, match="teacher summary: no channel varies over its 5 tokens"):
        transform(np.full((5, 3), 0.5, np.float32))


@pytest.mark.parametrize("width", [7, 64])
def test_it_is_undone(width: int) -> None:
    values_XD = tokens(50, width).reshape(5, 2, 5, width)
    found = transform(values_XD.reshape(-1, width))
    moved = found.apply(values_XD)
    assert moved.dtype == np.float32
    assert moved.shape == values_XD.shape
    np.testing.assert_allclose(found.invert(moved), values_XD, rtol=0, atol=1e-5 * np.abs(values_XD).max())


def test_distances_keep_their_proportions() -> None:
    values_XD = tokens(40, 12)
    moved = transform(values_XD).apply(values_XD)
    before = np.linalg.norm(values_XD[1:] - values_XD[:-1], axis=1)
    after = np.linalg.norm(moved[1:] - moved[:-1], axis=1)
    np.testing.assert_allclose(after / before, after[0] / before[0], rtol=1e-4)


def test_signs_do_not_depend_on_the_solver() -> None:
    covariance_DD = np.cov(tokens(100, 9).T)
    variances_D, directions_DD = principal_directions(covariance_DD)
    np.testing.assert_allclose(directions_DD * variances_D @ directions_DD.T, covariance_DD, rtol=1e-10, atol=1e-9)
    assert (np.diff(variances_D) <= 0).all()
    greatest_D = directions_DD[np.abs(directions_DD).argmax(axis=0), np.arange(9)]
    assert (greatest_D > 0).all()
    # a mirrored problem has mirrored directions, and the same signs after that
    again = principal_directions(covariance_DD[::-1, ::-1])[1][::-1]
    np.testing.assert_allclose(again, directions_DD, rtol=0, atol=1e-9)


def test_it_reads_back_bit_for_bit_and_no_byte_may_change() -> None:
    found = transform(tokens(20, 4))
    data = found.to_bytes()
    again = PhiS.from_bytes(data, location="x")
    assert again.to_bytes() == data
    assert (again.alpha, again.count, again.rank) == (found.alpha, found.count, found.rank)
    np.testing.assert_array_equal(again.rotation_DD, found.rotation_DD)
    np.testing.assert_array_equal(again.mean_D, found.mean_D)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(CacheCorrupt, match=r"^x: .* Restore it"):
            PhiS.from_bytes(changed, location="x")
    for cut in (0, 10, len(data) - 1):
        with pytest.raises(CacheCorrupt, match=r"^x: "):
            PhiS.from_bytes(data[:cut], location="x")


def test_hadamard_matrices_are_what_they_are_called() -> None:
    reached = [order for order in range(1, 130) if hadamard(order) is not None]
    assert reached == [1, 2, *(order for order in range(4, 130, 4) if order not in (52, 92, 100, 116))]
    for order in (*reached, *KNOWN):
        signs = hadamard(order)
        assert signs is not None
        assert (np.abs(signs) == 1).all()
        exact = signs.astype(np.float32)  # sums of at most 1280 signs are exact
        np.testing.assert_array_equal(exact @ exact.T, order * np.eye(order, dtype=np.float32))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0, 1e-12]), min_size=1, max_size=40))
def test_any_variances_are_spread_evenly(variances: list[float]) -> None:
    variances_D = np.array(variances)
    spread_DD = spreading(variances_D)
    width = len(variances)
    np.testing.assert_allclose(spread_DD @ spread_DD.T, np.eye(width), rtol=0, atol=1e-12)
    spread_D = ((spread_DD * variances_D) * spread_DD).sum(axis=1)
    np.testing.assert_allclose(spread_D, variances_D.mean(), rtol=1e-9)

"""Codecs: what each keeps of the values, how many bytes it takes, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding, TopK
from kd_ray.config.outputs import Codec
from kd_ray.errors import CacheCorrupt, ExtractionError
from tests.support.tiny_cache import IDS, UNIT, new_output, unit, values_of

Floats = NDArray[np.float32]
CODECS: tuple[Codec, ...] = ("float32", "float16", "bfloat16", "int8", "uint8", "top_k")

finite = st.floats(-60000, 60000, width=32)
rows_of_four = st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=6)


def coding(codec: Codec, *shape: int) -> Coding:
    settings_of_it = {"k": 3, "temperatures": (1.0, 4.0)} if codec == "top_k" else {}
    return Coding(codec=codec, shape=shape, **settings_of_it)


def encoded(codec: Codec, values_VND: Floats, calibration: Calibration | None = None) -> dict[str, NDArray]:
    return coding(codec, *values_VND.shape[2:]).encode(values_VND, calibration=calibration, what="teacher summary")


def there_and_back(codec: Codec, values_VND: Floats, calibration: Calibration | None = None) -> Floats:
    arrays = encoded(codec, values_VND, calibration)
    return coding(codec, *values_VND.shape[2:]).decode(arrays, calibration=calibration)


def features(*shape: int, seed: int = 0) -> Floats:
    """Channels of very different means and spreads, as a ViT has them."""
    random = np.random.default_rng(seed)
    spread = 10.0 ** random.uniform(-2, 2, shape[-1])
    return (random.normal(size=shape) * spread + random.normal(size=shape[-1]) * spread).astype(np.float32)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 300)])
def test_bytes_of_a_view_are_those_of_the_arrays(codec: Codec, shape: tuple[int, ...]) -> None:
    values_VND = features(2, 4, *shape)
    arrays = encoded(codec, values_VND, Calibration.of(values_VND))
    assert sum(array.nbytes for array in arrays.values()) == 8 * coding(codec, *shape).bytes_per_view


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_finite_is_refused_and_its_place_named(codec: Codec, bad: float) -> None:
    values_VND = values_of(UNIT)
    values_VND[1, 3, 2] = bad
    with pytest.raises(ExtractionError, match=r"teacher summary: 1 of 10 outputs are not finite; .*: 1/3\."):
        encoded(codec, values_VND, Calibration.of(values_of(UNIT)))


class TestFloats:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_float16_overflow_is_refused_not_made_infinite(self, sign: int) -> None:
        values_VND = values_of(UNIT)
        values_VND[0, 0, 0] = sign * 65505
        with pytest.raises(ExtractionError, match=r"6\.55e\+04 does not fit float16.*codec: bfloat16, or float32"):
            encoded("float16", values_VND)

    def test_the_largest_float16_fits(self) -> None:
        values_VND = np.full((1, 1, 2), 65504, dtype=np.float32)
        np.testing.assert_array_equal(there_and_back("float16", values_VND), values_VND)

    @settings(max_examples=50)
    @given(rows_of_four)
    def test_float32_is_kept_bit_for_bit_and_float16_rounds_once(self, rows: list[list[float]]) -> None:
        values_VND = np.array([rows], dtype=np.float32)
        assert encoded("float32", values_VND)["values"].tobytes() == values_VND.astype("<f4").tobytes()
        assert encoded("float16", values_VND)["values"].tobytes() == values_VND.astype("<f2").tobytes()

    @settings(max_examples=50)
    @given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
    def test_bfloat16_rounds_to_nearest_even_and_never_to_infinity(self, row: list[float]) -> None:
        values_VND = np.array([[row]], dtype=np.float32)
        found = there_and_back("bfloat16", values_VND)
        assert np.isfinite(found).all()
        assert not (found.view(np.uint32) & 0xFFFF).any()  # eight bits of mantissa
        error = np.abs(found.astype(np.float64) - values_VND)
        least_normal = float(np.finfo(np.float32).tiny)
        # half a step, but a whole one where the nearest would be infinite
        step = np.maximum(np.abs(values_VND.astype(np.float64)), least_normal) / 2**7
        assert (error <= np.where(np.abs(values_VND) > 3.38e38, step, step / 2)).all()

    def test_bfloat16_ties_go_to_even(self) -> None:
        values_VND = np.array([[[1 + 2**-8, 1 + 3 * 2**-8]]], dtype=np.float32)
        np.testing.assert_array_equal(there_and_back("bfloat16", values_VND), [[[1.0, 1 + 4 * 2**-8]]])


class TestInt8:
    def test_is_within_half_a_step_of_each_token_in_every_channel(self) -> None:
        values_VND = features(2, 50, 7, 24)
        calibration = Calibration.of(values_VND)
        found = there_and_back("int8", values_VND, calibration)
        standard = np.abs((values_VND - calibration.mean_D) / calibration.deviation_D)
        step = standard.max(axis=-1, keepdims=True) / 127 * (1 + 2**-10)  # the scale is a float16, rounded up
        error = np.abs(found - values_VND) / calibration.deviation_D
        assert (error <= step * (0.5 + 1e-4)).all()

    def test_is_as_close_as_was_measured(self) -> None:
        """An error of 5e-5 of each channel's variance; of a faint one, of that of a tenth of the mean deviation."""
        values_VND = features(1, 400, 64)
        found = there_and_back("int8", values_VND, Calibration.of(values_VND))
        deviation_D = values_VND.std(axis=(0, 1))
        counted_D = np.maximum(deviation_D, deviation_D.mean() / 10)
        assert (counted_D > deviation_D).any()
        error_D = ((found - values_VND) ** 2).mean(axis=(0, 1)) / counted_D**2
        assert error_D.max() < 1e-4

    def test_a_channel_that_wakes_after_calibration_leaves_the_others_what_they_are(self) -> None:
        random = np.random.default_rng(0)
        values_VND = np.maximum(random.normal(size=(2, 200, 64)), 0).astype(np.float32)
        first_VND, later_VND = values_VND[:1].copy(), values_VND[1:]
        first_VND[..., ::8] = 0.0
        found = there_and_back("int8", later_VND, Calibration.of(first_VND))
        error_D = ((found - later_VND) ** 2).mean(axis=(0, 1)) / later_VND.var(axis=(0, 1))
        assert error_D.max() < 2e-2  # 8e-3; at a thousandth of the mean deviation: 1.1

    def test_equal_tokens_and_dead_channels_are_kept(self) -> None:
        values_VND = np.tile(np.array([0.0, 3.0, -2.0], np.float32), (1, 4, 1))
        np.testing.assert_array_equal(there_and_back("int8", values_VND, Calibration.of(values_VND)), values_VND)

    def test_what_is_absurdly_far_from_the_calibration_is_refused(self) -> None:
        calibration = Calibration.of(features(1, 50, 4))
        with pytest.raises(
            ExtractionError, match=r"deviations from its channel's mean.*Set the output's codec: float16"
        ):
            encoded("int8", np.full((1, 1, 4), 1e30, np.float32), calibration)

    def test_the_first_calibration_stays_and_is_used_by_all_units(self, tmp_path: Path) -> None:
        shape = (6,)
        output = new_output(str(tmp_path), codec="int8", shape=shape)
        assert output.must_be_calibrated()
        first, second = (features(2, len(IDS), *shape, seed=seed) for seed in (0, 1))
        output.calibrate(first)
        output.calibrate(second)
        assert not output.must_be_calibrated()
        output.write(unit(0, 2), first, IDS, attempt="a0")
        output.write(unit(2, 4), second, IDS, attempt="a1")
        found = output.calibration()
        assert found is not None
        np.testing.assert_array_equal(found.mean_D, Calibration.of(first).mean_D)
        commits = output.collection.commits()
        read = output.read(commits[unit(2, 4)], view_index=3, sample_ids=IDS)
        np.testing.assert_array_equal(read, there_and_back("int8", second, found)[1])

    def test_values_that_are_not_finite_calibrate_nothing(self, tmp_path: Path) -> None:
        output = new_output(str(tmp_path), codec="int8")
        values = values_of(UNIT)
        values[1, 2, 0] = np.inf
        with pytest.raises(ExtractionError, match=r"calibrating views: 1 of .* outputs are not finite.*1/2"):
            output.calibrate(values)
        assert output.must_be_calibrated()

    def test_a_lost_calibration_is_not_made_anew(self, tmp_path: Path) -> None:
        output = new_output(str(tmp_path), codec="int8")
        output.calibrate(values_of(UNIT))
        output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
        (path,) = tmp_path.rglob("calibration.json")
        path.unlink()
        (commit,) = output.collection.commits().values()
        for use in (
            output.must_be_calibrated,
            lambda: output.write(unit(2, 4), values_of(unit(2, 4)), IDS, attempt="a1"),
            lambda: output.read(commit, view_index=0, sample_ids=IDS),
        ):
            with pytest.raises(CacheCorrupt, match=f"{path}: is missing. Restore it"):
                use()

    @pytest.mark.parametrize("place", [0, 40, -3])
    def test_a_changed_calibration_is_found(self, tmp_path: Path, place: int) -> None:
        output = new_output(str(tmp_path), codec="int8")
        output.calibrate(values_of(UNIT))
        (path,) = tmp_path.rglob("calibration.json")
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(CacheCorrupt, match=f"{path}: is not a readable calibration"):
            output.calibration()


class TestUint8:
    @settings(max_examples=50)
    @given(rows_of_four)
    def test_is_within_half_a_step_and_exact_at_the_greatest(self, rows: list[list[float]]) -> None:
        values_VND = np.array([rows], dtype=np.float32)
        found = there_and_back("uint8", values_VND)
        spread = np.ptp(values_VND.astype(np.float64), axis=-1, keepdims=True)
        assert (np.abs(found - values_VND) <= spread / 255 * 0.5 + np.abs(values_VND).max() * 1e-6 + 1e-44).all()
        greatest = values_VND.argmax(axis=-1)[..., None]
        np.testing.assert_array_equal(
            np.take_along_axis(found, greatest, axis=-1), np.take_along_axis(values_VND, greatest, axis=-1)
        )


class TestTopK:
    def test_probabilities_of_the_kept_are_exact_at_every_stored_temperature(self) -> None:
        logits = features(50, 300) / 10
        found = TopK.of(logits, k=10, temperatures=(1.0, 2.0, 4.0))
        for place, temperature in enumerate(found.temperatures):
            expected = np.take_along_axis(
                log_softmax(logits / temperature, axis=-1), found.indices.astype(int), axis=-1
            )
            kept = found.values.astype(np.float64) / temperature - found.log_sum_exp[:, place, None]
            # float16 has 11 bits for what lies below the greatest, which itself is exact
            np.testing.assert_allclose(kept[:, 0], expected[:, 0], atol=1e-5)
            np.testing.assert_allclose(np.exp(kept), np.exp(expected), atol=3e-4)
        np.testing.assert_allclose(
            found.log_sum_exp[:, 0] + found.maximum, logsumexp(logits.astype(np.float64), axis=-1), rtol=1e-5
        )

    def test_keeps_the_greatest_in_order_and_the_first_of_equal_ones(self) -> None:
        found = TopK.of(np.array([[1.0, 5.0, 5.0, 7.0]], np.float32), k=3, temperatures=(1.0,))
        assert found.indices.tolist() == [[3, 1, 2]]
        assert found.maximum.tolist() == [7.0]
        assert found.values.tolist() == [[0.0, -2.0, -2.0]]

    @pytest.mark.parametrize(("num_classes", "width"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
    def test_indices_take_the_least_width(self, num_classes: int, width: int) -> None:
        logits = np.zeros((1, num_classes), np.float32)
        logits[0, -1] = 1.0
        found = TopK.of(logits, k=1, temperatures=(1.0,))
        assert (found.indices.itemsize, int(found.indices[0, 0])) == (width, num_classes - 1)

    def test_ten_of_a_thousand_classes_take_fifty_six_bytes(self) -> None:
        asked = Coding(codec="top_k", shape=(1000,), k=10, temperatures=(1.0, 2.0, 4.0))
        assert asked.bytes_per_view == 56

    def test_decoded_they_are_probabilities_of_all_classes(self) -> None:
        logits = features(1, 20, 30) / 10
        found = there_and_back("top_k", logits)
        np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1.0, atol=2e-3)
        np.testing.assert_array_equal(found.argmax(axis=-1), logits.argmax(axis=-1))

    def test_survives_logits_that_float16_could_not_hold(self) -> None:
        logits = np.array([[[3e38, 0.0, -3e38, 1.0]]], np.float32)
        arrays = encoded("top_k", logits)
        assert all(np.isfinite(array).all() for array in arrays.values())
        np.testing.assert_array_equal(coding("top_k", 4).decode(arrays, calibration=None).argmax(axis=-1), [[0]])

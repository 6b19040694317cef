"""Cosine, NMSE and KL of codecs: exact where a codec is, as computed by hand, and growing as bytes shrink."""

import numpy as np
import pytest

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding
from kd_ray.cache.fidelity import (
    TEMPERATURES,
    Fidelity,
    centred_cosine,
    codings_for,
    divergence,
    log_softmax,
    measure,
    title_of,
)

NUM_CLASSES = 12
LOGITS = np.random.default_rng(0).normal(0, 3, (40, NUM_CLASSES)).astype(np.float32)


def measured(coding: Coding, values: np.ndarray = LOGITS, *, num_parts: int = 4, is_logits: bool = True) -> Fidelity:
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return measure(
        coding,
        np.array_split(values, num_parts),
        mean_D=rows.mean(axis=0),
        variance_D=rows.var(axis=0),
        calibration=Calibration.of(values),
        is_logits=is_logits,
    )


def of(codec: str, **settings: object) -> Coding:
    return Coding(codec=codec, shape=(NUM_CLASSES,), **settings)


def test_float32_loses_nothing() -> None:
    found = measured(of("float32"))
    assert (found.cosine_mean, found.cosine_least, found.nmse_mean, found.nmse_worst) == (1, 1, 0, 0)
    assert found.kl == dict.fromkeys(TEMPERATURES, (0.0, 0.0))
    assert found.bytes_per_view == 4 * NUM_CLASSES


def test_nmse_is_the_squared_error_of_a_channel_over_its_variance() -> None:
    found = measured(of("bfloat16"))
    decoded = of("bfloat16").decode(of("bfloat16").encode(LOGITS[None], calibration=None, what="x"), calibration=None)
    nmse_D = ((decoded[0].astype(np.float64) - LOGITS) ** 2).mean(axis=0) / LOGITS.astype(np.float64).var(axis=0)
    assert (found.nmse_mean, found.nmse_worst) == (pytest.approx(nmse_D.mean()), pytest.approx(nmse_D.max()))
    assert found.nmse_mean > 0


def test_kl_is_that_of_both_softmaxes() -> None:
    from scipy.special import softmax
    from scipy.stats import entropy

    found = measured(of("uint8"))
    encoded = of("uint8").encode(LOGITS[None], calibration=None, what="x")
    decoded = of("uint8").decode(encoded, calibration=None)[0].astype(np.float64)
    for temperature, (mean, p99) in found.kl.items():
        exact = softmax(LOGITS.astype(np.float64) / temperature, axis=-1)
        expected = entropy(exact, softmax(decoded / temperature, axis=-1), axis=-1)
        assert mean == pytest.approx(expected.mean(), rel=1e-6)
        assert p99 == pytest.approx(np.quantile(expected, 0.99), rel=1e-6)


def test_of_top_k_what_is_not_kept_shares_the_rest() -> None:
    found = measured(of("top_k", k=2, temperatures=TEMPERATURES))
    assert found.cosine_mean is None
    assert found.nmse_mean is None
    for temperature, (mean, _) in found.kl.items():
        exact = np.exp(log_softmax(LOGITS.astype(np.float64) / temperature))
        shared = exact.copy()
        for row in shared:
            least = np.argsort(row)[: NUM_CLASSES - 2]
            row[least] = row[least].mean()
        expected = (exact * np.log(exact / shared)).sum(axis=-1)
        assert mean == pytest.approx(expected.mean(), rel=1e-2)


def test_more_kept_classes_lose_less() -> None:
    found = [measured(of("top_k", k=k, temperatures=TEMPERATURES)) for k in (1, 4, 11)]
    for temperature in TEMPERATURES:
        means = [each.kl[temperature][0] for each in found]
        assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("num_parts", [1, 3, 40])
def test_how_the_values_come_in_parts_does_not_matter(num_parts: int) -> None:
    one, other = (measured(of("int8"), num_parts=number) for number in (2, num_parts))
    assert other.cosine_mean == pytest.approx(one.cosine_mean)
    assert other.nmse_worst == pytest.approx(one.nmse_worst)
    assert other.kl[1.0] == pytest.approx(one.kl[1.0])


def test_channels_that_never_vary_are_left_out_of_nmse() -> None:
    values = LOGITS.copy()
    values[:, 3] = 0.1  # no bfloat16
    found = measured(of("bfloat16"), values, is_logits=False)
    assert np.isfinite(found.nmse_worst)
    assert found.kl == {}


def test_what_a_codec_cannot_store_is_told() -> None:
    found = measured(of("float16"), LOGITS * 1e6)
    assert found.refused is not None
    assert "does not fit float16" in found.refused


def test_every_codec_of_a_recipe_is_measured() -> None:
    assert [title_of(each) for each in codings_for((7, 7, 64), is_logits=False)] == [
        "float32",
        "float16",
        "bfloat16",
        "int8",
        *(f"{codec}, basis {share}" for share in (0.99, 0.95, 0.9) for codec in ("float16", "int8")),
    ]
    titles = [(each.codec, each.k) for each in codings_for((50,), is_logits=True)]
    assert titles[4:] == [("uint8", None), ("top_k", 5), ("top_k", 20)]


def test_cosine_is_of_centred_vectors() -> None:
    mean_D = np.array([1.0, 1.0])
    exact, decoded = np.array([[2.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 3.0], [1.0, 1.0], [2.0, 1.0]])
    np.testing.assert_allclose(centred_cosine(exact, decoded, mean_D=mean_D), [0.0, 1.0, 0.0])


def test_divergence_is_zero_only_of_equals() -> None:
    exact = log_softmax(LOGITS.astype(np.float64))
    assert (divergence(exact, exact) == 0).all()
    assert (divergence(exact, exact[:, ::-1]) > 0).all()

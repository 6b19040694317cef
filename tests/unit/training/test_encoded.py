"""Targets decoded on the student's device: the same values as the cache's own, and losses on the k greatest."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding
from kd_ray.config.outputs import Codec
from kd_ray.errors import TrainingError
from kd_ray.training.encoded import EncodedTargets, TopKTargets
from kd_ray.training.losses.response import kd_loss, top_k_kd_loss

CPU = torch.device("cpu")


def logits(rows: int, classes: int, *, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, classes), scale=3).astype(np.float32))


def encoded(values_BD: Tensor, codec: Codec, *, k: int | None = None) -> EncodedTargets:
    coding = Coding(
        codec=codec, shape=tuple(values_BD.shape[1:]), k=k, temperatures=(1.0, 2.0, 4.0) if k is not None else ()
    )
    calibration = Calibration.of(values_BD.numpy()) if coding.needs_calibration else None
    arrays = coding.encode(values_BD.numpy()[None], calibration=calibration, what="")
    return EncodedTargets(
        coding=coding,
        calibration=calibration,
        arrays={name: torch.from_numpy(array[0]) for name, array in arrays.items()},
    )


def top_k(values_BK: Tensor, k: int) -> TopKTargets:
    found = encoded(values_BK, "top_k", k=k).to(CPU)
    assert isinstance(found, TopKTargets)
    return found


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8", "uint8"])
def test_values_are_those_that_the_cache_decodes(codec: Codec) -> None:
    targets = encoded(logits(6, 9), codec)
    arrays = {name: tensor.numpy() for name, tensor in targets.arrays.items()}
    expected = targets.coding.decode(arrays, calibration=targets.calibration).astype(np.float32)
    found = targets.to(CPU)
    assert isinstance(found, Tensor)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_so_they_are_from_coefficients_in_a_basis(codec: Codec) -> None:
    values_BD = logits(40, 9) @ torch.diag(torch.tensor([2.0**-each for each in range(9)]))
    coding = Coding(codec=codec, shape=(9,), explained_variance=0.95)
    calibration = coding.calibrate(values_BD.numpy(), what="")
    arrays = coding.encode(values_BD.numpy()[None], calibration=calibration, what="")
    targets = EncodedTargets(
        coding=coding,
        calibration=calibration,
        arrays={name: torch.from_numpy(array[0]) for name, array in arrays.items()},
    )
    expected = coding.decode({name: array[0] for name, array in arrays.items()}, calibration=calibration)
    found = targets.to(CPU)
    assert isinstance(found, Tensor)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class TestTopKKd:
    @pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
    @pytest.mark.parametrize("remainder", ["ghost", "uniform"])
    def test_with_all_classes_but_one_kept_it_is_the_exact_loss(self, temperature: float, remainder: str) -> None:
        student, teacher = logits(8, 12), logits(8, 12, seed=1)
        found = top_k_kd_loss(student, top_k(teacher, 11), temperature=temperature, remainder=remainder)
        torch.testing.assert_close(found, kd_loss(student, teacher, temperature=temperature), rtol=2e-3, atol=1e-3)

    @pytest.mark.parametrize("remainder", ["ghost", "uniform"])
    def test_against_numpy(self, remainder: str) -> None:
        student, teacher, temperature, k = logits(5, 40), logits(5, 40, seed=1), 2.0, 7
        kept = top_k(teacher, k)
        indices = kept.indices_Bk.numpy()
        log_p = kept.log_probabilities(temperature).numpy().astype(np.float64)
        log_q = log_softmax(student.numpy().astype(np.float64) / temperature, axis=-1)
        rest_B = 1 - np.exp(log_p).sum(axis=1)
        others = np.ones(student.shape, bool)
        np.put_along_axis(others, indices, False, axis=1)
        total_B = (np.exp(log_p) * (log_p - np.take_along_axis(log_q, indices, axis=1))).sum(axis=1)
        for row in range(len(total_B)):
            if remainder == "ghost":
                total_B[row] += rest_B[row] * np.log(rest_B[row] / np.exp(log_q[row, others[row]]).sum())
            else:
                share = rest_B[row] / others[row].sum()
                total_B[row] += (share * (np.log(share) - log_q[row, others[row]])).sum()
        found = top_k_kd_loss(student, kept, temperature=temperature, remainder=remainder)
        np.testing.assert_allclose(found, temperature**2 * total_B.mean(), rtol=1e-5)

    def test_a_ghost_never_costs_more_than_the_exact_loss(self) -> None:
        student, teacher = logits(64, 30), logits(64, 30, seed=1)
        found = top_k_kd_loss(student, top_k(teacher, 5), temperature=1.0, remainder="ghost")
        assert found <= kd_loss(student, teacher, temperature=1.0) + 1e-3

    @pytest.mark.parametrize("remainder", ["ghost", "uniform"])
    def test_gradients_are_finite_where_the_teacher_is_certain(self, remainder: str) -> None:
        teacher = torch.zeros(2, 10)
        teacher[:, 3] = 300.0
        student = (100 * logits(2, 10)).requires_grad_()
        top_k_kd_loss(student, top_k(teacher, 4), temperature=1.0, remainder=remainder).backward()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()

    def test_they_move_to_a_device_whole(self) -> None:
        moved = top_k(logits(2, 9), 3).to(torch.device("meta"))
        assert {moved.indices_Bk.device.type, moved.values_Bk.device.type, moved.log_sum_exp_BT.device.type} == {"meta"}
        assert (moved.temperatures, moved.num_classes) == ((1.0, 2.0, 4.0), 9)

    def test_another_temperature_and_other_classes_are_refused(self) -> None:
        kept = top_k(logits(2, 10), 4)
        with pytest.raises(TrainingError, match=r"temperature 3, but these top_k targets hold 1, 2, 4"):
            top_k_kd_loss(logits(2, 10), kept, temperature=3.0, remainder="ghost")
        with pytest.raises(TrainingError, match="student logits are of 9 classes, the teacher's of 10"):
            top_k_kd_loss(logits(2, 9), kept, temperature=1.0, remainder="ghost")

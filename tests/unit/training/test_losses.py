"""Losses against plain NumPy in float64, their properties, and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_ray.config.losses import CrossEntropyLoss, FeatureLoss, KdLoss
from kd_ray.errors import TrainingError
from kd_ray.training.losses.feature import balanced_loss, cosine_loss, mse_loss
from kd_ray.training.losses.labels import NO_LABEL, Labels, cross_entropy_loss
from kd_ray.training.losses.response import kd_loss
from kd_ray.training.losses.weighted import WeightedLosses, term_name

# float32 sums of a few hundred terms against float64
RTOL = 2e-6


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape, scale=scale).astype(np.float32))


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def wide(x: Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


class TestKd:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_against_numpy(self, temperature: float) -> None:
        student, teacher = normal(7, 11), normal(7, 11, seed=1)
        log_p, log_q = (log_softmax(wide(x) / temperature) for x in (teacher, student))
        divergence_B = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        expected = temperature**2 * divergence_B.mean()
        np.testing.assert_allclose(kd_loss(student, teacher, temperature=temperature), expected, rtol=RTOL)

    def test_equal_logits_cost_nothing(self) -> None:
        assert kd_loss(normal(5, 4), normal(5, 4), temperature=3.0).item() == pytest.approx(0.0, abs=1e-6)

    @settings(max_examples=25, deadline=None)
    @given(shift=st.floats(-50, 50), temperature=st.floats(0.5, 10))
    def test_a_constant_added_to_either_side_changes_nothing(self, shift: float, temperature: float) -> None:
        student, teacher = normal(4, 6), normal(4, 6, seed=1)
        plain = kd_loss(student, teacher, temperature=temperature)
        # a shift of 50 costs float32 logits five of their bits
        for moved in (
            kd_loss(student + shift, teacher, temperature=temperature),
            kd_loss(student, teacher + shift, temperature=temperature),
        ):
            np.testing.assert_allclose(moved, plain, rtol=1e-4, atol=1e-5)

    def test_at_high_temperature_the_gradient_is_that_of_matching_centred_logits(self) -> None:
        """Hinton et al. 2015, section 2.1: with T² the gradient tends to (z - v) / K, whatever T."""
        teacher = normal(1, 5, seed=1)
        for temperature in (100.0, 400.0):
            student = normal(1, 5).requires_grad_()
            kd_loss(student, teacher, temperature=temperature).backward()
            difference = wide(student) - wide(teacher)
            expected = (difference - difference.mean(axis=1, keepdims=True)) / 5
            # the next term of the series is of order z / T
            np.testing.assert_allclose(student.grad, expected, rtol=0.1, atol=0.02)

    def test_half_precision_is_widened_first(self) -> None:
        student, teacher = normal(3, 4).half(), normal(3, 4, seed=1).half()
        found = kd_loss(student, teacher, temperature=2.0)
        assert found.dtype == torch.float32
        assert found == kd_loss(student.float(), teacher.float(), temperature=2.0)


class TestCrossEntropy:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_samples_without_a_label_count_zero(self, smoothing: float) -> None:
        logits, labels = normal(6, 4), torch.tensor([3, NO_LABEL, 0, 1, NO_LABEL, 3])
        known = labels.numpy() != NO_LABEL
        log_q = log_softmax(wide(logits)[known])
        target = np.eye(4)[labels.numpy()[known]] * (1 - smoothing) + smoothing / 4
        expected = -(target * log_q).sum() / len(labels)
        np.testing.assert_allclose(
            cross_entropy_loss(logits, Labels.unmixed(labels), label_smoothing=smoothing), expected, rtol=RTOL
        )

    def test_two_workers_average_to_the_whole_batch(self) -> None:
        logits, labels = normal(6, 4), torch.tensor([3, NO_LABEL, 0, NO_LABEL, NO_LABEL, 3])
        halves = [
            cross_entropy_loss(logits[part], Labels.unmixed(labels[part]), label_smoothing=0.0)
            for part in (slice(3), slice(3, 6))
        ]
        whole = cross_entropy_loss(logits, Labels.unmixed(labels), label_smoothing=0.0)
        np.testing.assert_allclose(sum(halves) / 2, whole, rtol=RTOL)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_mixed_labels_are_the_cross_entropy_with_the_mixed_distribution(self, smoothing: float) -> None:
        logits, weights = normal(3, 4), np.array([0.25, 1.0, 0.5])
        own, partner = np.array([3, 0, 1]), np.array([2, NO_LABEL, 1])
        target = weights[:, None] * np.eye(4)[own]
        target[[0, 2]] += (1 - weights[[0, 2]])[:, None] * np.eye(4)[partner[[0, 2]]]
        target = target * (1 - smoothing) + smoothing / 4
        expected = -(target * log_softmax(logits.numpy().astype(np.float64))).sum() / 3
        labels = Labels(
            own_B=torch.from_numpy(own), partner_B=torch.from_numpy(partner), weights_B=torch.from_numpy(weights)
        )
        np.testing.assert_allclose(cross_entropy_loss(logits, labels, label_smoothing=smoothing), expected, rtol=RTOL)

    def test_a_batch_without_labels_is_zero_with_zero_gradients(self) -> None:
        logits = normal(3, 4).requires_grad_()
        loss = cross_entropy_loss(logits, Labels.unmixed(torch.full((3,), NO_LABEL)), label_smoothing=0.1)
        loss.backward()
        assert loss == 0
        assert logits.grad is not None
        assert not logits.grad.any()


class TestFeatures:
    @pytest.mark.parametrize("shape", [(6, 5), (3, 2, 4, 5)])
    def test_cosine_against_numpy(self, shape: tuple[int, ...]) -> None:
        predicted, target = normal(*shape), normal(*shape, seed=1)
        a, b = wide(predicted), wide(target)
        similarity = (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        np.testing.assert_allclose(cosine_loss(predicted, target), (1 - similarity).mean(), rtol=RTOL)

    def test_cosine_ends(self) -> None:
        target = normal(4, 3)
        assert cosine_loss(target * 7, target).item() == pytest.approx(0.0, abs=1e-6)
        assert cosine_loss(-target, target).item() == pytest.approx(2.0, abs=1e-6)

    def test_a_target_of_zero_norm_counts_as_one(self) -> None:
        assert cosine_loss(normal(4, 3), torch.zeros(4, 3)).item() == 1.0

    @pytest.mark.parametrize("distance", [cosine_loss, mse_loss, balanced_loss])
    def test_features_of_zero_norm_still_give_finite_gradients(self, distance) -> None:
        predicted = torch.zeros(4, 3, requires_grad=True)
        distance(predicted, normal(4, 3)).backward()
        assert predicted.grad is not None
        assert torch.isfinite(predicted.grad).all()

    def test_mse_against_numpy(self) -> None:
        predicted, target = normal(3, 2, 2, 5), normal(3, 2, 2, 5, seed=1)
        expected = ((wide(predicted) - wide(target)) ** 2).mean()
        np.testing.assert_allclose(mse_loss(predicted, target), expected, rtol=RTOL)

    def test_balanced_against_numpy(self) -> None:
        predicted, target = normal(6, 5), normal(6, 5, seed=1)
        distance = np.abs(wide(predicted) - wide(target))
        assert (distance < 2).any()
        assert (distance > 2).any()
        smooth_l1 = np.where(distance < 2, distance**2 / 4, distance - 1).mean()
        cosine = wide(cosine_loss(predicted, target))
        np.testing.assert_allclose(balanced_loss(predicted, target), 0.9 * cosine + 0.1 * smooth_l1, rtol=RTOL)


@pytest.mark.parametrize(
    "distance", [lambda a, b: kd_loss(a, b, temperature=1.0), cosine_loss, mse_loss, balanced_loss]
)
@pytest.mark.parametrize("teacher_shape", [(4, 5), (4, 1), (3, 7)])
def test_unequal_shapes_are_refused_with_both_named(distance, teacher_shape: tuple[int, ...]) -> None:
    student = torch.zeros(4, 7)
    with pytest.raises(TrainingError) as caught:
        distance(student, torch.zeros(teacher_shape))
    assert "(4, 7)" in str(caught.value)
    assert str(teacher_shape) in str(caught.value)


class TestWeightedLosses:
    losses = (
        CrossEntropyLoss(kind="cross_entropy", weight=0.25),
        KdLoss(kind="kd", weight=3.0, temperature=2.0),
        FeatureLoss(kind="feature", output="summary", weight=0.5),
        FeatureLoss(kind="feature", output="spatial", distance="mse", weight=2.0),
        FeatureLoss(kind="feature", output="summary", distance="balanced"),
    )
    weighted = WeightedLosses(losses=losses, teachers=(None, "big", "big", "other", "other"))

    def test_total_is_the_weighted_sum_of_the_terms_each_with_its_own_teacher(self) -> None:
        outputs = {
            "logits": normal(4, 3),
            "feature_2": normal(4, 5, seed=1),
            "feature_3": normal(4, 2, 2, 6, seed=2),
            "feature_4": normal(4, 8, seed=3),
        }
        labels = torch.tensor([0, 1, 2, NO_LABEL])
        targets = {
            ("big", "logits"): normal(4, 3, seed=4),
            ("big", "summary"): normal(4, 5, seed=5),
            ("other", "spatial"): normal(4, 2, 2, 6, seed=6),
            ("other", "summary"): normal(4, 8, seed=7),
        }
        total, terms = self.weighted(outputs, Labels.unmixed(labels), targets)
        expected = {
            "0_cross_entropy": cross_entropy_loss(outputs["logits"], Labels.unmixed(labels), label_smoothing=0.0),
            "1_kd": kd_loss(outputs["logits"], targets["big", "logits"], temperature=2.0),
            "2_feature_summary": cosine_loss(outputs["feature_2"], targets["big", "summary"]),
            "3_feature_spatial": mse_loss(outputs["feature_3"], targets["other", "spatial"]),
            "4_feature_summary": balanced_loss(outputs["feature_4"], targets["other", "summary"]),
        }
        of_teachers = {f"teacher/{name}" for name in ("big", "other")}
        assert {name: term for name, term in terms.items() if name not in of_teachers} == expected
        for name in of_teachers:
            own = [i for i, teacher in enumerate(self.weighted.teachers) if f"teacher/{teacher}" == name]
            wanted = sum(self.losses[i].weight * expected[term_name(i, self.losses[i])] for i in own)
            np.testing.assert_allclose(terms[name], wanted, rtol=RTOL)
        np.testing.assert_allclose(
            total, sum(loss.weight * expected[term_name(i, loss)] for i, loss in enumerate(self.losses)), rtol=RTOL
        )

    def test_terms_do_not_hold_the_graph(self) -> None:
        logits = normal(4, 3).requires_grad_()
        losses = WeightedLosses(losses=(CrossEntropyLoss(kind="cross_entropy"),), teachers=(None,))
        total, terms = losses({"logits": logits}, Labels.unmixed(torch.tensor([0, 1, 2, 0])), {})
        assert total.requires_grad
        assert not any(term.requires_grad for term in terms.values())

    def test_needed_targets_are_those_of_the_teachers_followed(self) -> None:
        assert self.weighted.needed_targets() == {
            ("big", "logits"),
            ("big", "summary"),
            ("other", "spatial"),
            ("other", "summary"),
        }

"""Losses beyond KD, cross-entropy and cosine: against plain NumPy in float64, their properties, and their edges."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_ray.config.losses import FeatureLoss, KdLoss, RelationalLoss, WeightSchedule
from kd_ray.errors import TrainingError
from kd_ray.training.losses.contrastive import Queues, contrastive_loss
from kd_ray.training.losses.feature import feature_loss
from kd_ray.training.losses.labels import NO_LABEL, Labels
from kd_ray.training.losses.relational import relational_loss
from kd_ray.training.losses.response import binary_kd_loss, dist_loss, dkd_loss, kd_loss
from kd_ray.training.losses.weighted import WeightedLosses, weight_at

# float32 sums of a few hundred terms against float64
RTOL = 1e-5

Compared = Callable[[Tensor, Tensor], Tensor]
FEATURES = ("cosine", "mse", "balanced", "l1", "smooth_l1", "fd", "angle", "tangent_sphere", "dampened_mse")
RELATIONS = ("rkd_distance", "rkd_angle", "similarity_preserving", "cka", "token_similarity")


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape, scale=scale).astype(np.float32))


def wide(x: Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=-1)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def distance(name: str) -> Compared:
    return feature_loss(FeatureLoss.model_validate({"kind": "feature", "output": "spatial", "distance": name}))


def relation(name: str) -> Compared:
    loss = RelationalLoss.model_validate({"kind": "relational", "output": "spatial", "distance": name})
    return lambda student, teacher: relational_loss(loss, student, teacher)


def unlabelled(count: int) -> Labels:
    return Labels.unmixed(torch.full((count,), NO_LABEL))


LOGITS: dict[str, Compared] = {
    "kd_standardized": lambda s, t: kd_loss(s, t, temperature=2.0, standardize_logits=True),
    "dist": lambda s, t: dist_loss(s, t, temperature=2.0, beta=1.0, gamma=0.5),
    "dkd": lambda s, t: dkd_loss(s, t, unlabelled(len(s)), temperature=2.0, alpha=1.0, beta=8.0),
    "binary_kd": lambda s, t: binary_kd_loss(s, t, temperature=2.0),
}
ALL: dict[str, Compared] = LOGITS | {
    **{name: distance(name) for name in (*FEATURES, "attention_transfer")},
    **{name: relation(name) for name in RELATIONS},
    "contrastive": lambda s, t: contrastive_loss(
        s.flatten(1), t.flatten(1), torch.from_numpy(unit(wide(normal(9, s[0].numel())))).float(), temperature=0.07
    ),
}


def sides(name: str, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    shape = (6, 5) if name in LOGITS else (6, 3, 2, 5)
    return normal(*shape), normal(*shape, seed=seed)


class TestOnLogits:
    def test_standardized_logits_against_numpy(self) -> None:
        student, teacher = normal(7, 11), normal(7, 11, seed=1)
        p, q = (
            softmax((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) / 3)
            for x in (wide(teacher), wide(student))
        )
        found = kd_loss(student, teacher, temperature=3.0, standardize_logits=True)
        np.testing.assert_allclose(found, 9 * divergence(p, q).mean(), rtol=RTOL)

    def test_standardized_logits_do_not_care_for_scale_and_shift(self) -> None:
        student, teacher = normal(7, 11), normal(7, 11, seed=1)
        plain = kd_loss(student, teacher, temperature=3.0, standardize_logits=True)
        moved = kd_loss(student * 5 - 2, teacher / 3 + 1, temperature=3.0, standardize_logits=True)
        np.testing.assert_allclose(moved, plain, rtol=1e-4)

    def test_dist_against_numpy(self) -> None:
        student, teacher = normal(7, 4), normal(7, 4, seed=1)
        q, p = softmax(wide(student) / 2), softmax(wide(teacher) / 2)
        inter = 1 - np.mean([np.corrcoef(q[b], p[b])[0, 1] for b in range(7)])
        intra = 1 - np.mean([np.corrcoef(q[:, k], p[:, k])[0, 1] for k in range(4)])
        found = dist_loss(student, teacher, temperature=2.0, beta=2.0, gamma=0.5)
        np.testing.assert_allclose(found, 4 * (2 * inter + 0.5 * intra), rtol=RTOL)

    def test_dist_does_not_care_for_a_constant_added_to_logits(self) -> None:
        student, teacher = normal(7, 4), normal(7, 4, seed=1)
        np.testing.assert_allclose(
            LOGITS["dist"](student + 7, teacher - 3), LOGITS["dist"](student, teacher), rtol=1e-4
        )

    def test_dkd_against_numpy(self) -> None:
        student, teacher = normal(4, 5), normal(4, 5, seed=1)
        labels = Labels(
            own_B=torch.tensor([3, NO_LABEL, 1, 0]),
            partner_B=torch.tensor([NO_LABEL, NO_LABEL, 2, 4]),
            weights_B=torch.tensor([1.0, 1.0, 0.25, 0.75]),
        )
        targets = [3, int(teacher[1].argmax()), 2, 0]
        expected = 0.0
        for b, target in enumerate(targets):
            p, q = softmax(wide(teacher)[b] / 4), softmax(wide(student)[b] / 4)
            two = [np.array([x[target], 1 - x[target]]) for x in (p, q)]
            rest = [np.delete(x, target) / (1 - x[target]) for x in (p, q)]
            expected += 16 * (1.5 * divergence(*two) + 6 * divergence(*rest)) / 4
        found = dkd_loss(student, teacher, labels, temperature=4.0, alpha=1.5, beta=6.0)
        np.testing.assert_allclose(found, expected, rtol=RTOL)

    def test_dkd_weighted_by_what_the_teacher_leaves_to_others_is_kd(self) -> None:
        """Zhao et al. 2022, eq. 7: KD = TCKD + (1 - p of the target) NCKD."""
        student, teacher = normal(1, 6), normal(1, 6, seed=1)
        rest = 1 - softmax(wide(teacher))[0].max()
        found = dkd_loss(student, teacher, unlabelled(1), temperature=1.0, alpha=1.0, beta=float(rest))
        np.testing.assert_allclose(found, kd_loss(student, teacher, temperature=1.0), rtol=RTOL)

    def test_dkd_refuses_one_class(self) -> None:
        with pytest.raises(TrainingError, match="there is 1"):
            LOGITS["dkd"](normal(3, 1), normal(3, 1))

    def test_binary_against_numpy(self) -> None:
        student, teacher = normal(7, 4), normal(7, 4, seed=1)
        p, q = (1 / (1 + np.exp(-wide(x) / 2)) for x in (teacher, student))
        expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
        np.testing.assert_allclose(binary_kd_loss(student, teacher, temperature=2.0), expected, rtol=RTOL)


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.arccos((unit(a) * unit(b)).sum(axis=-1))


def _logarithm(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    cosines = unit(x) @ centre
    return (np.arccos(cosines) / np.sqrt(1 - cosines**2))[..., None] * (unit(x) - cosines[..., None] * centre)


def feature_oracle(name: str, s: np.ndarray, t: np.ndarray) -> float:
    d = np.abs(s - t)
    centre = unit(unit(t).reshape(-1, t.shape[-1]).mean(axis=0))
    whitened = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
    w = np.abs(s - whitened)
    maps = [unit((x**2).mean(-1).reshape(len(x), -1)) for x in (s, t)]
    found = {
        "l1": d.mean(),
        "smooth_l1": np.where(d < 1, d**2 / 2, d - 0.5).mean(),
        "fd": np.where(w < 2, w**2 / 4, w - 1).mean(),
        "angle": (_angles(s, t) ** 2).mean() / (_angles(t, centre) ** 2).mean(),
        "tangent_sphere": ((_logarithm(s, centre) - _logarithm(t, centre)) ** 2).sum(-1).mean()
        / (_angles(t, centre) ** 2).mean(),
        "dampened_mse": np.where(np.abs(d) < 1, d**2 / 2, 2 * np.sqrt(np.abs(d)) - 1.5).mean(),
        "attention_transfer": ((maps[0] - maps[1]) ** 2).sum(-1).mean(),
    }
    return float(found[name])


@pytest.mark.parametrize(("share", "beta"), [(0.5, 1.0), (0.9, 1.0), (0.9, None)])
def test_balanced_with_other_numbers(share: float, beta: float | None) -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    loss = FeatureLoss(kind="feature", output="summary", distance="balanced", cosine_share=share, beta=beta)
    s, t, edge = wide(student), wide(teacher), beta or 2.0
    cosine = (s * t).sum(-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)
    size = np.abs(s - t)
    smooth = np.where(size < edge, size**2 / (2 * edge), size - edge / 2).mean()
    expected = share * (1 - cosine).mean() + (1 - share) * smooth
    assert float(feature_loss(loss)(student, teacher)) == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize("name", [*FEATURES[3:], "attention_transfer"])
def test_features_against_numpy(name: str) -> None:
    student, teacher = sides(name)
    np.testing.assert_allclose(
        ALL[name](student, teacher), feature_oracle(name, wide(student), wide(teacher)), rtol=RTOL
    )


def relation_oracle(name: str, s: np.ndarray, t: np.ndarray) -> float:
    flat = [x.reshape(len(x), -1) for x in (s, t)]
    count = len(s)

    def smooth(d: float) -> float:
        return d * d / 2 if abs(d) < 1 else abs(d) - 0.5

    if name == "rkd_distance":
        pairs = [[np.linalg.norm(x[i] - x[j]) for i in range(count) for j in range(i)] for x in flat]
        a, b = (np.array(each) / np.mean(each) for each in pairs)
        return float(np.mean([smooth(each) for each in a - b]))
    if name == "rkd_angle":
        cosines = [
            [
                unit(x[i] - x[j]) @ unit(x[k] - x[j])
                for j in range(count)
                for i in range(count)
                for k in range(count)
                if len({i, j, k}) == 3
            ]
            for x in flat
        ]
        return float(np.mean([smooth(each) for each in np.array(cosines[0]) - np.array(cosines[1])]))
    if name == "similarity_preserving":
        a, b = (unit(x @ x.T) for x in flat)
        return float(((a - b) ** 2).sum() / count**2)
    if name == "cka":
        a, b = (x - x.mean(axis=0) for x in flat)
        return float(1 - np.linalg.norm(b.T @ a) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b))
    found = []
    for x, y in zip(s, t, strict=True):
        q, p = (softmax(unit(m) @ unit(m).T / 0.07) for m in (x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])))
        found.append(divergence(p, q).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_against_numpy_with_other_widths(name: str) -> None:
    student, teacher = normal(6, 3, 2, 5), normal(6, 3, 2, 8, seed=1)
    expected = relation_oracle(name, wide(student), wide(teacher))
    np.testing.assert_allclose(relation(name)(student, teacher), expected, rtol=RTOL)


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_do_not_care_how_features_are_turned(name: str) -> None:
    student, teacher = normal(6, 1, 4, 5), normal(6, 1, 4, 5, seed=1)
    turn_DD = torch.linalg.qr(normal(5, 5, seed=2))[0]
    np.testing.assert_allclose(
        relation(name)(student @ turn_DD, teacher), relation(name)(student, teacher), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", sorted(set(ALL) - {"fd"}))
def test_a_student_that_equals_its_teacher_costs_nothing(name: str) -> None:
    same, other = sides(name)
    assert ALL[name](same, same).item() == pytest.approx(0.0, abs=2e-6)
    assert ALL[name](same, other).item() > 1e-3


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("case", ["zero student", "zero teacher", "one sample", "uniform", "certain", "equal", "alike"])
def test_value_and_gradient_are_finite_at_the_edges(name: str, case: str) -> None:
    student, teacher = sides(name)
    match case:
        case "zero student":
            student = torch.zeros_like(student)
        case "zero teacher":
            teacher = torch.zeros_like(teacher)
        case "one sample":
            student, teacher = student[:1], teacher[:1]
        case "uniform":
            student, teacher = torch.full_like(student, 3.0), torch.full_like(teacher, 2.0)
        case "certain":
            teacher = teacher * 500
        case "equal":
            student = teacher.clone()
        case "alike":
            student, teacher = student[:1].expand_as(student), teacher[:1].expand_as(teacher)
    student = student.clone().requires_grad_()
    value = ALL[name](student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_narrow_numbers_are_widened_first(name: str) -> None:
    student, teacher = (each.bfloat16() for each in sides(name))
    found = ALL[name](student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ALL[name](student.float(), teacher.float()))


@pytest.mark.parametrize("name", ["attention_transfer", "token_similarity"])
def test_other_grids_are_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=name):
        ALL[name](normal(2, 3, 2, 5), normal(2, 3, 3, 5))


class TestQueue:
    def test_contrastive_against_numpy(self) -> None:
        student, teacher, queue = normal(4, 5), normal(4, 5, seed=1), unit(wide(normal(7, 5, seed=2)))
        q, p = (softmax(unit(wide(x)) @ queue.T / 0.1) for x in (student, teacher))
        found = contrastive_loss(student, teacher, torch.from_numpy(queue).float(), temperature=0.1)
        np.testing.assert_allclose(found, divergence(p, q).mean(), rtol=RTOL)

    def test_the_oldest_leave_first(self) -> None:
        queues, batches = Queues(), [normal(4, 3, seed=seed) for seed in range(3)]
        for batch in batches:
            found = queues.push(0, batch, size=10)
        np.testing.assert_allclose(found, unit(wide(torch.cat(batches)[-10:])), rtol=1e-6)

    def test_each_run_begins_with_empty_queues(self) -> None:
        losses = WeightedLosses(losses=(KdLoss(kind="kd"),), teachers=("teacher",))
        losses.queues.push(0, normal(2, 3), size=4)
        assert not losses.for_run(5).queues.tensors


class TestWeights:
    @pytest.mark.parametrize(
        ("kind", "half"), [("linear", 3.0 * 0.75), ("cosine", 3.0 * (1.0 - 0.5 * (1 - math.cos(math.pi / 2)) / 2))]
    )
    def test_it_goes_from_start_to_end_and_stays(self, kind: str, half: float) -> None:
        schedule = WeightSchedule.model_validate({"kind": kind, "start": 1.0, "end": 0.5, "fraction": 0.5})
        loss = KdLoss(kind="kd", weight=3.0, weight_schedule=schedule)
        found = [weight_at(loss, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
        assert found == pytest.approx([3.0, half, 1.5, 1.5])

    def test_the_step_decides_the_sum(self) -> None:
        loss = KdLoss(kind="kd", weight=2.0, weight_schedule=WeightSchedule(start=0.0, end=1.0))
        losses = WeightedLosses(losses=(loss,), teachers=("big",)).for_run(10)
        outputs, targets = {"logits": normal(3, 4)}, {("big", "logits"): normal(3, 4, seed=1)}
        first, terms = losses(outputs, unlabelled(3), targets, step=0)
        sixth, _ = losses(outputs, unlabelled(3), targets, step=5)
        assert first == 0
        torch.testing.assert_close(sixth, terms["0_kd"])

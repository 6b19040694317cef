"""Several teachers: what their losses count, learnt or measured, and which of them teach a sample."""

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_ray.config.losses import CrossEntropyLoss, FeatureLoss, KdLoss
from kd_ray.config.optim import Optimizer
from kd_ray.models import build_optimizer
from kd_ray.training.balance import EMA_DECAY, Balance, LossScales, build_balance
from kd_ray.training.batches import Batch, Part
from kd_ray.training.fit import FitResult, Metrics, State, fit
from kd_ray.training.job import decode_state, encode_state
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.teacher_dropout import TeacherDropout
from tests.support.tiny_world import fit_settings

BATCH_SIZE, NUM_CLASSES, WIDTH, NUM_PIXELS = 8, 3, 4, 5
KINDS = (
    CrossEntropyLoss(kind="cross_entropy", weight=0.5),
    KdLoss(kind="kd", weight=2.0),
    FeatureLoss(kind="feature", output="summary", distance="mse", weight=3.0),
    FeatureLoss(kind="feature", output="summary", distance="cosine"),
)
TEACHERS = (None, "big", "other", "big")
TIMED = {"images_per_s_per_worker", "data_wait"}


def losses_with(balance: Balance = "fixed", dropout: TeacherDropout | None = None) -> WeightedLosses:
    return WeightedLosses(losses=KINDS, teachers=TEACHERS, balance=balance, dropout=dropout)


class Network(nn.Module):
    """Logits, two features, and what balances."""

    def __init__(self, balance: Balance) -> None:
        super().__init__()
        self.logits = nn.Linear(3 * NUM_PIXELS, NUM_CLASSES)
        self.features = nn.ModuleList(nn.Linear(3 * NUM_PIXELS, WIDTH) for _ in range(2))
        self.balance = build_balance(balance, num_teachers=2)

    def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.outputs(x_BCHW.flatten(1)) for x_BCHW in x]

    def outputs(self, x_BD: Tensor) -> dict[str, Tensor]:
        features = {f"feature_{2 + number}": layer(x_BD) for number, layer in enumerate(self.features)}
        return {"logits": self.logits(x_BD), **features, **(self.balance() if self.balance is not None else {})}


class Keeping:
    def __init__(self) -> None:
        self.states: dict[int, bytes] = {}

    def log(self, step: int, metrics: Metrics) -> None:
        pass

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None:
        self.states[state["step"]] = encode_state(state)


def network(balance: Balance, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(balance)


def batches(first_step: int = 0) -> Iterator[Batch]:
    for step in count(first_step):
        random = np.random.default_rng(step)

        def normal(*shape: int, random: np.random.Generator = random) -> Tensor:
            return torch.from_numpy(random.normal(size=shape).astype(np.float32))

        part = Part(
            inputs_BCHW=normal(BATCH_SIZE, 3, 1, NUM_PIXELS),
            labels=Labels.unmixed(torch.from_numpy(random.integers(0, NUM_CLASSES, BATCH_SIZE))),
            targets={
                ("big", "logits"): normal(BATCH_SIZE, NUM_CLASSES),
                ("big", "summary"): normal(BATCH_SIZE, WIDTH),
                ("other", "summary"): 10 * normal(BATCH_SIZE, WIDTH),
            },
            sample_ids_B=random.integers(0, 2**63, BATCH_SIZE).astype(np.uint64),
            view_indices_B=np.zeros(BATCH_SIZE, np.int64),
        )
        yield Batch(parts=(part,), num_images=BATCH_SIZE)


def run(
    module: Network, losses: WeightedLosses, *, num_steps: int = 8, resume: State | None = None, hooks: Keeping
) -> FitResult:
    settings = fit_settings(num_steps, optimizer=Optimizer(learning_rate=0.01), checkpoint_every_steps=1)
    first = 0 if resume is None else int(resume["step"])
    return fit(module, batches(first), losses, settings=settings, hooks=hooks, resume=resume)


def logged(result: FitResult) -> list[Metrics]:
    return [{key: value for key, value in entry.items() if key not in TIMED} for entry in result.history]


def part_losses(module: Network, losses: WeightedLosses, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
    return losses(module([part.inputs_BCHW])[0], part.labels, part.targets)


class TestBalance:
    def test_learnt_factors_begin_with_the_weights_of_the_recipe(self) -> None:
        (part,) = next(batches()).parts
        fixed, _ = part_losses(network("fixed"), losses_with("fixed"), part)
        learnt, _ = part_losses(network("uncertainty"), losses_with("uncertainty"), part)
        torch.testing.assert_close(learnt, fixed)

    def test_uncertainty_is_the_formula_of_kendall(self) -> None:
        (part,) = next(batches()).parts
        module = network("uncertainty")
        module.balance.log_variances.data = torch.tensor([0.7, -1.1])
        total, terms = part_losses(module, losses_with("uncertainty"), part)
        big = 2.0 * float(terms["1_kd"]) + float(terms["3_feature_summary"])
        other = 3.0 * float(terms["2_feature_summary"])
        wanted = 0.5 * float(terms["0_cross_entropy"]) + np.exp(-0.7) * big + np.exp(1.1) * other + 0.5 * (0.7 - 1.1)
        assert total.item() == pytest.approx(wanted, rel=1e-5)
        assert float(terms["teacher/big"]) == pytest.approx(big, rel=1e-6)
        assert float(terms["teacher_factor/other"]) == pytest.approx(np.exp(1.1), rel=1e-6)

    def test_learnt_factors_tend_to_one_half_over_the_loss(self) -> None:
        """Where the loss is constant: the minimum of exp(-s) L + s / 2 is at exp(-s) = 1 / (2 L)."""
        (part,) = next(batches()).parts
        module, losses = network("uncertainty"), losses_with("uncertainty")
        optimizer = torch.optim.LBFGS([module.balance.log_variances], max_iter=100)

        def closure() -> Tensor:
            optimizer.zero_grad()
            total, _ = part_losses(module, losses, part)
            total.backward()
            return total

        optimizer.step(closure)
        _, terms = part_losses(module, losses, part)
        for name in ("big", "other"):
            wanted = 0.5 / float(terms[f"teacher/{name}"])
            assert float(terms[f"teacher_factor/{name}"]) == pytest.approx(wanted, rel=1e-3)

    def test_log_variances_are_optimised_and_never_decayed(self) -> None:
        module = network("uncertainty")
        groups = build_optimizer(Optimizer(weight_decay=0.1), module).param_groups
        (group,) = [each for each in groups if any(p is module.balance.log_variances for p in each["params"])]
        assert group["weight_decay"] == 0.0

    def test_scales_are_the_running_means_free_of_bias(self) -> None:
        scales = LossScales(2)
        assert scales()["loss_scales"].tolist() == [1.0, 1.0]
        losses = np.random.default_rng(0).uniform(0.5, 5.0, (30, 2))
        for each in losses:
            scales.observe(torch.from_numpy(each))
        shares = EMA_DECAY ** np.arange(29, -1, -1)
        np.testing.assert_allclose(scales()["loss_scales"], shares @ losses / shares.sum(), rtol=1e-4)

    def test_scaled_losses_of_all_teachers_are_about_one(self) -> None:
        history = run(network("ema"), losses_with("ema"), num_steps=40, hooks=Keeping()).history
        last = [each for each in history if "loss" in each][-10:]
        for name in ("big", "other"):
            scaled = np.mean([each[f"teacher/{name}"] * each[f"teacher_factor/{name}"] for each in last])
            assert 0.5 < scaled < 1.5
        raw = [np.mean([each[f"teacher/{name}"] for each in last]) for name in ("big", "other")]
        assert raw[1] > 20 * raw[0]

    def test_one_teacher_has_no_terms_of_its_own(self) -> None:
        (part,) = next(batches()).parts
        losses = WeightedLosses(losses=KINDS[:2], teachers=(None, "big"))
        _, terms = part_losses(network("fixed"), losses, part)
        assert set(terms) == {"0_cross_entropy", "1_kd"}


class TestResuming:
    @pytest.mark.parametrize("balance", ["fixed", "uncertainty", "ema"])
    @pytest.mark.parametrize("probability", [0.0, 0.5])
    def test_weights_balance_and_history_are_those_of_the_undisturbed_run(
        self, balance: Balance, probability: float
    ) -> None:
        dropout = TeacherDropout(probability=probability, seed=7) if probability else None
        undisturbed, hooks = network(balance), Keeping()
        wanted = run(undisturbed, losses_with(balance, dropout), hooks=hooks)
        resumed = network(balance, seed=9)
        state = decode_state(hooks.states[3])
        found = run(resumed, losses_with(balance, dropout), resume=state, hooks=Keeping())
        for name, value in undisturbed.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
        assert logged(found) == logged(wanted)


class TestDropout:
    NAMES = ("a", "b", "c")
    IDS = np.random.default_rng(0).integers(0, 2**63, 30_000).astype(np.uint64)

    def kept(self, probability: float, *, step: int = 5, seed: int = 1) -> np.ndarray:
        found = TeacherDropout(probability=probability, seed=seed).kept(self.NAMES, self.IDS, step=step)
        return np.stack([found[name].numpy() for name in self.NAMES])

    @pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
    def test_each_teacher_is_left_out_of_its_share(self, probability: float) -> None:
        kept = self.kept(probability)
        assert kept.any(axis=0).all()
        # five standard deviations of a share of 30,000 draws
        np.testing.assert_allclose(1 - kept.mean(axis=1), probability * 2 / 3, atol=5 * 0.5 / np.sqrt(30_000))
        # but for the one that stays, independent of each other: all three are kept by (1 - p)²
        assert kept.all(axis=0).mean() == pytest.approx((1 - probability) ** 2, abs=5 * 0.5 / np.sqrt(30_000))

    def test_is_of_seed_step_and_sample_alone(self) -> None:
        whole = self.kept(0.5)
        np.testing.assert_array_equal(self.kept(0.5), whole)
        part = TeacherDropout(probability=0.5, seed=1).kept(self.NAMES, self.IDS[100:200], step=5)
        np.testing.assert_array_equal(np.stack([part[name].numpy() for name in self.NAMES]), whole[:, 100:200])
        for other in (self.kept(0.5, step=6), self.kept(0.5, seed=2)):
            assert 0.4 < (other != whole).mean() < 0.5  # 2 · (1/3) · (2/3) = 0.444 for independent draws

    def test_a_loss_is_over_the_kept_samples_by_their_share(self) -> None:
        (part,) = next(batches()).parts
        module, losses = network("fixed"), losses_with()
        rows_B = torch.tensor([True, False, False, True, False, False, False, False])
        outputs = module([part.inputs_BCHW])[0]
        _, terms = losses(outputs, part.labels, part.targets, kept={"other": rows_B})
        difference = (outputs["feature_2"] - part.targets["other", "summary"])[rows_B]
        wanted = difference.square().sum() / (BATCH_SIZE * WIDTH)
        torch.testing.assert_close(terms["2_feature_summary"], wanted.detach())
        _, everything = losses(outputs, part.labels, part.targets)
        for name in ("0_cross_entropy", "1_kd", "3_feature_summary"):
            assert torch.equal(terms[name], everything[name])

    def test_a_teacher_of_no_sample_leaves_gradients_of_zero(self) -> None:
        (part,) = next(batches()).parts
        module = network("fixed")
        none_B = torch.zeros(BATCH_SIZE, dtype=torch.bool)
        total, terms = losses_with()(module([part.inputs_BCHW])[0], part.labels, part.targets, kept={"other": none_B})
        total.backward()
        assert float(terms["2_feature_summary"]) == 0.0
        assert module.features[0].weight.grad is not None
        assert not module.features[0].weight.grad.any()
        assert module.features[1].weight.grad.any()

    def test_a_run_with_dropout_is_another_run(self) -> None:
        plain, dropped = network("fixed"), network("fixed")
        run(plain, losses_with(), hooks=Keeping())
        run(dropped, losses_with(dropout=TeacherDropout(probability=0.5, seed=0)), hooks=Keeping())
        assert not torch.equal(plain.logits.weight, dropped.logits.weight)


def test_batches_are_functions_of_their_step() -> None:
    first, again = next(batches(3)), next(islice(batches(), 3, None))
    assert torch.equal(first.parts[0].inputs_BCHW, again.parts[0].inputs_BCHW)

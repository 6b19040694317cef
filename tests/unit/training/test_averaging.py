"""Averages of weights: against a plain computation, exact when resumed, exported and measured beside the last ones."""

from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from kd_ray.config.loop import Ema
from kd_ray.storage import open_storage
from kd_ray.training.averaging import MovingAverage, StoredShelf, best_steps, mean_weights, with_weights
from kd_ray.training.job import decode_state
from tests.support.loop_world import Network, Watching, batches, new_network, run

EMA = Ema(decay=0.9, warmup=False)


def jitter(network: nn.Module) -> None:
    with torch.no_grad():
        for each in network.state_dict().values():
            each.add_(torch.randn_like(each) if each.is_floating_point() else 1)


class TestMovingAverage:
    def test_is_that_of_timm(self) -> None:
        network = new_network()
        average, reference = MovingAverage(EMA, network), ModelEmaV3(network, decay=0.9)
        for _ in range(5):
            jitter(network)
            average.update()
            reference.update(network)
        for name, value in reference.module.state_dict().items():
            torch.testing.assert_close(average.tensors[name], value, msg=name)

    def test_with_warm_up_the_first_weights_are_soon_forgotten(self) -> None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        average = MovingAverage(Ema(decay=0.999, warmup=True), network)
        nn.init.ones_(network.weight)
        average.update()
        assert average.tensors["weight"].item() == pytest.approx(0.9)
        average.update()
        assert average.tensors["weight"].item() == pytest.approx(1 - 0.1 * 2 / 11)

    def test_weights_come_back_after_a_block_with_others(self) -> None:
        network = new_network()
        own = {name: each.clone() for name, each in network.state_dict().items()}
        with with_weights(network, {name: torch.ones_like(each) for name, each in own.items()}):
            assert all((each == 1).all() for each in network.state_dict().values())
        assert all(torch.equal(network.state_dict()[name], each) for name, each in own.items())


class TestInTheLoop:
    def test_both_are_measured_and_the_average_is_exported(self) -> None:
        network = new_network()
        hooks = Watching(scores=[0.1, 0.2, 0.3, 0.4])
        result = run(network, hooks, batches(), ema=EMA, evaluate_every_steps=6)
        assert [entry for entry in result.history if "test_top1" in entry] == [
            {"step": 6, "test_top1": 0.1, "test_top1_ema": 0.2},
            {"step": 12, "test_top1": 0.3, "test_top1_ema": 0.4},
        ]
        assert result.exported == "ema"
        for name, value in network.state_dict().items():
            assert torch.equal(result.weights["last"][name], value), name
        assert not torch.equal(result.weights["ema"]["layers.0.weight"], result.weights["last"]["layers.0.weight"])

    def test_the_average_is_measured_with_its_own_weights(self) -> None:
        network, seen = new_network(), []

        class Noting(Watching):
            def evaluate(self, step: int) -> dict[str, float]:
                seen.append(network.state_dict()["layers.0.weight"].clone())
                return super().evaluate(step)

        result = run(network, Noting(), batches(), ema=EMA)
        assert torch.equal(seen[0], result.weights["last"]["layers.0.weight"])
        assert torch.equal(seen[1], result.weights["ema"]["layers.0.weight"])

    def test_a_resumed_run_has_the_same_average(self) -> None:
        hooks, ema = Watching(), Ema(decay=0.99)
        wanted = run(new_network(), hooks, batches(), ema=ema, checkpoint_every_steps=5).weights["ema"]
        found = run(Network(), Watching(), batches(5), ema=ema, resume=decode_state(hooks.states[5])).weights["ema"]
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


class TestBest:
    def test_the_greatest_count_and_of_equals_the_later(self) -> None:
        history = [{"step": step, "test_top1": top1} for step, top1 in enumerate([0.5, 0.9, 0.5, 0.1, 0.9, 0.5])]
        assert best_steps([*history, {"step": 9, "loss": 2.0}], "test_top1", count=3) == [1, 4, 5]

    def test_exported_is_the_mean_of_the_best_evaluations(self, tmp_path: Path) -> None:
        network, seen = new_network(), {}

        class Noting(Watching):
            def evaluate(self, step: int) -> dict[str, float]:
                seen.setdefault(step, {name: each.clone() for name, each in network.state_dict().items()})
                return super().evaluate(step)

        shelf = StoredShelf(open_storage(str(tmp_path)))
        hooks = Noting(network, scores=[0.3, 0.8, 0.1, 0.6, 0.77])
        result = run(network, hooks, batches(), shelf=shelf, average_best=2, evaluate_every_steps=3)
        assert result.exported == "best"
        for name, value in result.weights["best"].items():
            first, second = seen[6][name], seen[12][name]
            wanted = (first + second) / 2 if value.is_floating_point() else second
            torch.testing.assert_close(value, wanted)
        # measured once more, with the mean
        assert result.history[-1] == {"step": 12, "test_top1_best": 0.77}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["12.safetensors", "3.safetensors", "6.safetensors"]

    def test_what_an_earlier_checkpoint_names_is_kept_until_the_next(self, tmp_path: Path) -> None:
        shelf = StoredShelf(open_storage(str(tmp_path)))
        often = {"shelf": shelf, "average_best": 1, "evaluate_every_steps": 2}
        kept: dict[int, list[str]] = {}

        class Noting(Watching):
            def checkpoint(self, state: dict[str, object]) -> None:
                super().checkpoint(state)
                kept[int(str(state["step"]))] = sorted(path.name for path in tmp_path.iterdir())

        hooks = Noting(scores=[0.2, 0.9, 0.8, 0.95])
        run(new_network(), hooks, batches(), checkpoint_every_steps=5, num_steps=8, **often)
        assert kept == {5: ["2.safetensors", "4.safetensors"]}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["4.safetensors", "8.safetensors"]
        resumed = run(Network(), Watching(scores=[0.1] * 9), batches(5), resume=decode_state(hooks.states[5]), **often)
        assert torch.equal(resumed.weights["best"]["layers.0.weight"], shelf.get(4)["layers.0.weight"])

    def test_one_of_one_is_itself(self, tmp_path: Path) -> None:
        shelf, network = StoredShelf(open_storage(str(tmp_path))), new_network()
        shelf.put(7, network.state_dict())
        found = mean_weights(shelf, [7])
        assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())

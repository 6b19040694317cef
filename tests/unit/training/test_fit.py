"""The loop alone: resuming is exact, a loss that is not finite stops it, hooks are called when they should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.errors import TrainingError
from kd_ray.training.batches import Batch, Part
from kd_ray.training.fit import fit, samples_consumed
from kd_ray.training.job import decode_state
from kd_ray.training.losses.labels import Labels
from tests.support.loop_world import (
    BATCH_SIZE,
    LOSSES,
    NUM_CLASSES,
    NUM_PIXELS,
    TIMED,
    Network,
    Watching,
    batches,
    new_network,
    run,
    untimed,
)
from tests.support.tiny_world import NEVER, fit_settings


class TestResuming:
    # every place between two logs, and with a state that has passed an evaluation
    @pytest.mark.parametrize("stopped_at", [1, 4, 5, 6, 7, 11])
    def test_weights_and_history_are_those_of_the_undisturbed_run(self, stopped_at: int) -> None:
        often = {"log_every_steps": 4, "evaluate_every_steps": 6, "checkpoint_every_steps": 1}
        undisturbed, hooks = new_network(), Watching()
        wanted = run(undisturbed, hooks, batches(), **often)

        state = decode_state(hooks.states[stopped_at])
        torch.manual_seed(99)
        resumed = Network()
        assert samples_consumed(state, samples_per_step=BATCH_SIZE) == stopped_at * BATCH_SIZE
        found = run(resumed, Watching(), batches(stopped_at), resume=state, **often)

        for name, value in undisturbed.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
        assert untimed(found.history) == untimed(wanted.history)

    def test_a_run_that_has_not_begun_has_consumed_nothing(self) -> None:
        assert samples_consumed(None, samples_per_step=64) == 0

    def test_a_finished_run_is_not_trained_further(self) -> None:
        network, hooks = new_network(), Watching()
        run(network, hooks, batches(), num_steps=5, checkpoint_every_steps=4)
        state = decode_state(hooks.states[4])
        again = Network()
        run(again, Watching(), iter(()), resume=state, num_steps=4)
        assert all(torch.equal(again.state_dict()[name], value) for name, value in state["network"].items())

    def test_states_load_without_running_code(self) -> None:
        hooks = Watching()
        run(new_network(), hooks, batches(), num_steps=2, checkpoint_every_steps=1)
        # decode_state refuses anything but tensors and plain values
        assert decode_state(hooks.states[1])["step"] == 1


class TestLossThatIsNotFinite:
    def test_is_raised_with_its_step_its_terms_and_its_samples(self) -> None:
        told = r"the loss is nan at step 7 \(0_cross_entropy nan, 1_kd nan\), of samples"
        with pytest.raises(TrainingError, match=told) as caught:
            run(new_network(), Watching(), batches(spoiled_step=7), log_every_steps=NEVER)
        assert all(f"{sample_id:016x}" in str(caught.value) for sample_id in range(BATCH_SIZE))

    def test_the_samples_that_spoil_a_batch_are_told_from_the_others(self) -> None:
        batch = next(batches())
        (part,) = batch.parts
        targets = part.targets["teacher", "logits"].clone()
        targets[3, 1] = torch.inf
        spoiled = replace(batch, parts=(replace(part, targets={("teacher", "logits"): targets}),))
        with pytest.raises(TrainingError, match=r"1_kd nan.*Inputs or targets of 0{15}3 are not finite\.") as caught:
            run(new_network(), Watching(), iter([batch, spoiled, batch]))
        assert "0_cross_entropy nan" not in str(caught.value)

    def test_of_finite_inputs_the_learning_rate_is_at_fault(self) -> None:
        steep = Optimizer(kind="sgd", learning_rate=1e30)
        with pytest.raises(
            TrainingError, match=r"the loss is (nan|inf) at step 2 .*Lower train\.optimizer\.learning_rate"
        ):
            run(
                new_network(),
                Watching(),
                batches(),
                optimizer=steep,
                schedule=Schedule(kind="constant", warmup_fraction=0),
            )

    def test_never_reaches_a_checkpoint(self) -> None:
        hooks = Watching()
        with pytest.raises(TrainingError, match="at step 5"):
            run(new_network(), hooks, batches(spoiled_step=5), log_every_steps=NEVER, checkpoint_every_steps=3)
        assert list(hooks.states) == [3]

    def test_nor_do_weights_that_a_gradient_has_spoiled(self) -> None:
        """The root's slope at zero is infinite, though its value is not."""

        class Root(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(NUM_CLASSES))

            def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
                return [{"logits": self.weight.abs().sqrt().expand(len(x[0]), -1)}]

        hooks = Watching()
        with pytest.raises(TrainingError, match="1 of the student's weights are not finite after step 1, weight among"):
            run(Root(), hooks, batches(), checkpoint_every_steps=1)
        assert not hooks.states


class TestHooks:
    def test_are_called_at_their_steps_and_at_the_end(self) -> None:
        hooks = Watching()
        result = run(
            new_network(), hooks, batches(), log_every_steps=5, evaluate_every_steps=4, checkpoint_every_steps=3
        )
        assert hooks.logged == [5, 10, 12]
        assert hooks.evaluated == [4, 8, 12]
        # the end is saved as a finished run, not as a checkpoint
        assert list(hooks.states) == [3, 6, 9]
        assert [entry["step"] for entry in result.history] == [4, 5, 8, 10, 12, 12]

    def test_logged_loss_is_the_mean_since_the_last_log(self) -> None:
        each = run(new_network(), Watching(), batches()).history
        every_third = run(new_network(), Watching(), batches(), log_every_steps=3).history
        losses = [entry["loss"] for entry in each if "loss" in entry]
        found = [entry["loss"] for entry in every_third if "loss" in entry]
        np.testing.assert_allclose(found, np.reshape(losses, (4, 3)).mean(axis=1), rtol=1e-6)
        assert {"0_cross_entropy", "1_kd", "learning_rate", *TIMED} < every_third[0].keys()

    def test_training_goes_on_in_training_mode_after_an_evaluation(self) -> None:
        plain = new_network()
        run(plain, Watching(), batches(), evaluate_every_steps=2)
        watched = new_network()
        run(watched, Watching(watched), batches(), evaluate_every_steps=2)
        assert watched.training
        assert all(torch.equal(watched.state_dict()[name], value) for name, value in plain.state_dict().items())


class TestSteps:
    def test_gradients_are_clipped_to_the_given_norm(self) -> None:
        network = new_network()
        before = nn.utils.parameters_to_vector(network.parameters()).clone()
        # the first step of Nesterov's SGD moves by (1 + momentum) times the gradient, so it shows the gradient's norm
        plain = {
            "optimizer": Optimizer(kind="sgd", learning_rate=1.0, weight_decay=0.0, momentum=0.5),
            "schedule": Schedule(kind="constant", warmup_fraction=0.0),
        }
        run(network, Watching(), batches(), num_steps=1, gradient_clip=0.125, **plain)
        moved = nn.utils.parameters_to_vector(network.parameters()) - before
        # clip_grad_norm_ divides by the norm plus 1e-6
        assert torch.linalg.vector_norm(moved).item() == pytest.approx(1.5 * 0.125, rel=1e-4)

    def test_the_loss_goes_down(self) -> None:
        one = next(batches())
        history = run(new_network(), Watching(), iter([one] * 60), num_steps=60).history
        losses = [entry["loss"] for entry in history if "loss" in entry]
        assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_the_loss_of_several_parts_is_the_mean_over_all_their_views() -> None:
    """A batch cut into parts of 6 and 2 views gives the loss and the gradient of the whole one."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * NUM_PIXELS, NUM_CLASSES)

        def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{"logits": self.layer(x_BCHW.flatten(1))} for x_BCHW in x]

    def cut(part: Part, places: slice) -> Part:
        return Part(
            inputs_BCHW=part.inputs_BCHW[places],
            labels=Labels.unmixed(part.labels.own_B[places]),
            targets={key: value[places] for key, value in part.targets.items()},
            sample_ids_B=part.sample_ids_B[places],
            view_indices_B=part.view_indices_B[places],
        )

    (whole,) = next(batches()).parts
    found = []
    for parts in ((whole,), (cut(whole, slice(6)), cut(whole, slice(6, None)))):
        torch.manual_seed(0)
        network = Linear()
        settings = fit_settings(1, optimizer=Optimizer(kind="sgd", learning_rate=1.0))
        stream = iter([Batch(parts=parts, num_images=BATCH_SIZE)])
        history = fit(network, stream, LOSSES, settings=settings, hooks=Watching(), resume=None).history
        found.append((history[0], network.layer.weight.detach()))
    (once, weights), (in_parts, weights_in_parts) = found
    for name in ("loss", "0_cross_entropy", "1_kd"):
        assert in_parts[name] == pytest.approx(once[name], rel=1e-6)
    torch.testing.assert_close(weights_in_parts, weights)

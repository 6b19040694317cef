"""One step: in less precision, in pieces, in another layout; what is scaled is in the checkpoint."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.training.batches import Batch
from kd_ray.training.job import decode_state
from kd_ray.training.pieces import pieces_of
from tests.support.loop_world import BATCH_SIZE, Network, Plain, Watching, batches, new_network, run

GENTLE = {
    "optimizer": Optimizer(kind="sgd", learning_rate=0.1, weight_decay=0.0),
    "schedule": Schedule(kind="constant", warmup_fraction=0.0),
}


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain()


def weights_after(network: nn.Module, **changes: object) -> Tensor:
    run(network, Watching(), batches(), **{**GENTLE, "num_steps": 6, **changes})
    return nn.utils.parameters_to_vector(network.parameters()).detach()


class TestAccumulation:
    # 3 does not divide a batch of 8
    @pytest.mark.parametrize("count", [2, 3, 8, 20])
    def test_pieces_of_a_batch_change_the_weights_as_the_whole_does(self, count: int) -> None:
        torch.testing.assert_close(
            weights_after(plain(), accumulate_batches=count), weights_after(plain()), rtol=1e-5, atol=1e-6
        )

    def test_losses_told_are_those_of_the_whole_batch(self) -> None:
        whole = run(plain(), Watching(), batches(), **GENTLE).history
        pieces = run(plain(), Watching(), batches(), accumulate_batches=3, **GENTLE).history
        for name in ("loss", "0_cross_entropy", "1_kd"):
            assert [each[name] for each in pieces[:-1]] == pytest.approx([each[name] for each in whole[:-1]], rel=1e-5)

    def test_batch_norm_sees_one_piece_at_a_time(self) -> None:
        """So the equality above is not that of a setting without effect."""
        assert not torch.allclose(weights_after(new_network(), accumulate_batches=2), weights_after(new_network()))

    def test_the_network_sees_the_pieces_in_their_order(self) -> None:
        seen: list[int] = []
        network = plain()
        network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0][0])))
        run(network, Watching(), batches(), num_steps=1, accumulate_batches=3)
        assert seen == [2, 3, 3]

    def test_views_of_one_sample_stay_together(self) -> None:
        (part,) = next(batches()).parts
        repeated = Batch(parts=(part,), num_images=BATCH_SIZE // 2)
        first, *rest = pieces_of(repeated, count=3)
        assert [len(each.parts[0]) for each in (first, *rest)] == [2, 2, 4]
        assert torch.equal(first.parts[0].inputs_BCHW, part.inputs_BCHW[:2])
        assert rest[0].parts[0].sample_ids_B.tolist() == part.sample_ids_B[2:4].tolist()


class TestPrecision:
    @pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
    def test_the_forward_pass_is_in_it_and_the_weights_are_not(self, precision: str, dtype: torch.dtype) -> None:
        seen: list[torch.dtype] = []
        network = plain()
        network.layers[0].register_forward_hook(lambda *given: seen.append(given[2].dtype))
        history = run(network, Watching(), batches(), precision=precision).history
        assert set(seen) == {dtype}
        assert {each.dtype for each in network.parameters()} == {torch.float32}
        exact = run(plain(), Watching(), batches()).history
        found, wanted = ([each["loss"] for each in told if "loss" in each] for told in (history, exact))
        # bfloat16 keeps 8 bits: 0.4 % of each logit
        assert found == pytest.approx(wanted, rel=0.02)
        assert found != wanted

    def test_the_scale_of_float16_goes_on_where_it_was(self) -> None:
        hooks = Watching()
        undisturbed = plain()
        run(undisturbed, hooks, batches(), precision="float16", checkpoint_every_steps=5)
        state = decode_state(hooks.states[5])
        # it starts at 2^16 and is halved where a gradient overflows
        assert state["scaler"]["scale"] > 0
        state["scaler"]["scale"] /= 2
        hooks = Watching()
        run(plain(), hooks, batches(5), resume=state, precision="float16", checkpoint_every_steps=6, num_steps=7)
        assert decode_state(hooks.states[6])["scaler"]["scale"] == state["scaler"]["scale"]

    def test_a_gradient_that_overflows_leaves_the_weights_and_lowers_the_scale(self) -> None:
        class Steep(Plain):
            def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
                (given,) = super().forward(x)
                return [{"logits": _overflowing(given["logits"])}]

        torch.manual_seed(0)
        network, hooks = Steep(), Watching()
        before = nn.utils.parameters_to_vector(network.parameters()).clone()
        run(network, hooks, batches(), precision="float16", num_steps=2, checkpoint_every_steps=1)
        assert torch.equal(nn.utils.parameters_to_vector(network.parameters()), before)
        assert decode_state(hooks.states[1])["scaler"]["scale"] == 2**15

    def test_clipping_is_of_the_gradient_before_it_was_scaled(self) -> None:
        moved = [
            weights_after(plain(), precision=precision, gradient_clip=0.05, num_steps=1)
            - weights_after(
                plain(), num_steps=1, optimizer=Optimizer(kind="sgd", learning_rate=1e-12, weight_decay=0.0)
            )
            for precision in ("float32", "float16")
        ]
        wanted, found = (torch.linalg.vector_norm(each).item() for each in moved)
        assert found == pytest.approx(wanted, rel=1e-3)


def _overflowing(logits_BK: Tensor) -> Tensor:
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(context: object, given: Tensor) -> Tensor:
            return given.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            return gradient * torch.inf

    apply: Callable[[Tensor], Tensor] = Overflow.apply
    return apply(logits_BK)


def test_channels_last_gives_the_network_that_layout() -> None:
    seen: list[bool] = []

    class Layout(Network):
        def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
            seen.append(x[0].is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    run(Layout(), Watching(), batches(), num_steps=1, channels_last=True)
    run(Layout(), Watching(), batches(), num_steps=1)
    assert seen == [True, False]

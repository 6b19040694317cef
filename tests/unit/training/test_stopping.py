"""What ends a run before its last step: the same step however often it was interrupted, with a checkpoint."""

import pytest

from kd_ray.config.loop import EarlyStopping, seconds_of
from kd_ray.errors import TrainingError
from kd_ray.training.job import decode_state
from kd_ray.training.stopping import is_stale
from tests.support.loop_world import Network, Watching, batches, new_network, run, untimed
from tests.support.tiny_world import NEVER


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "stops"),
    [
        ([0.1, 0.2, 0.3], 1, 0.0, False),
        ([0.1, 0.2, 0.2], 1, 0.0, True),
        ([0.1, 0.3, 0.2], 2, 0.0, False),
        ([0.1, 0.3, 0.2, 0.3], 2, 0.0, True),
        ([0.3, 0.31, 0.32], 2, 0.05, True),
        # slow gains count together, from the last one that was enough
        ([0.3, 0.32, 0.34, 0.36], 3, 0.05, False),
        ([], 1, 0.0, False),
    ],
)
def test_patience_counts_evaluations_without_a_gain(
    values: list[float], patience: int, min_delta: float, stops: bool
) -> None:
    history = [{"step": step, "test_top1": value} for step, value in enumerate(values)]
    assert is_stale(history, "test_top1", EarlyStopping(patience=patience, min_delta=min_delta)) is stops


SCORES = (0.2, 0.5, 0.4, 0.5, 0.9)
SETTINGS = {"evaluate_every_steps": 2, "log_every_steps": 5, "early_stopping": EarlyStopping(patience=2)}


class TestEarlyStopping:
    def test_ends_the_run_with_a_log_and_a_checkpoint(self) -> None:
        hooks = Watching(scores=SCORES)
        result = run(new_network(), hooks, batches(), **SETTINGS)
        assert result.num_steps == 8
        assert result.stopped == (
            "train.early_stopping: test_top1 has not risen in the last 2 evaluations before step 8"
        )
        assert hooks.logged == [5, 8]
        assert hooks.evaluated == [2, 4, 6, 8]
        assert list(hooks.states) == [8]

    def test_at_the_same_step_where_the_run_was_interrupted(self) -> None:
        hooks = Watching(scores=SCORES)
        wanted = run(new_network(), hooks, batches(), checkpoint_every_steps=5, **SETTINGS)
        again = Watching(scores=SCORES[2:])
        found = run(Network(), again, batches(5), resume=decode_state(hooks.states[5]), **SETTINGS)
        assert found.stopped == wanted.stopped
        assert untimed(found.history) == untimed(wanted.history)

    def test_a_run_that_has_stopped_stays_stopped(self) -> None:
        hooks = Watching(scores=SCORES)
        wanted = run(new_network(), hooks, batches(), **SETTINGS)
        found = run(Network(), Watching(), iter(()), resume=decode_state(hooks.states[8]), **SETTINGS)
        assert (found.stopped, found.num_steps) == (wanted.stopped, 8)

    def test_the_last_step_is_no_early_one(self) -> None:
        result = run(new_network(), Watching(scores=[0.5, 0.4, 0.3]), batches(), num_steps=6, **SETTINGS)
        assert (result.stopped, result.num_steps) == (None, 6)

    def test_without_anything_measured_is_refused(self) -> None:
        class Blind(Watching):
            def evaluate(self, step: int) -> dict[str, float]:
                return {}

        with pytest.raises(TrainingError, match=r"train\.early_stopping and train\.average_best compare .* top-1"):
            run(new_network(), Blind(), batches(), **SETTINGS)


class TestTime:
    def test_ends_the_run_at_the_next_log(self) -> None:
        hooks = Watching()
        result = run(new_network(), hooks, batches(), max_time_s=1e-9, log_every_steps=3)
        assert (result.stopped, result.num_steps) == ("train.max_time was reached at step 3", 3)
        assert (hooks.logged, hooks.evaluated, list(hooks.states)) == ([3], [3], [3])

    def test_the_seconds_of_earlier_tries_count(self) -> None:
        hooks = Watching()
        run(new_network(), hooks, batches(), checkpoint_every_steps=2)
        state = {**decode_state(hooks.states[2]), "seconds": 7200.0}
        result = run(Network(), Watching(), batches(2), resume=state, max_time_s=3600.0)
        assert result.num_steps == 3

    def test_time_enough_is_no_stop(self) -> None:
        assert run(new_network(), Watching(), batches(), max_time_s=3600.0, log_every_steps=NEVER).stopped is None


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90m", 5400), ("2h", 7200), ("1.5d", 129600)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds

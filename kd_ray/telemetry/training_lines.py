"""What a person reads while a student is trained."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kd_ray.telemetry.units import human_seconds

EVERY_S = 10.0
MUCH_DATA_WAIT = 0.05
NOT_TERMS = ("loss", "images_per_s_per_worker", "data_wait", "learning_rate")


@dataclass(slots=True, kw_only=True)
class TrainingLines:
    """One line an interval, an interval being what is logged but at least EVERY_S; what to change is said once."""

    name: str
    num_steps: int
    num_workers: int
    global_batch_size: int
    num_cpus: float
    clock: Callable[[], float] = time.monotonic
    _last_s: float | None = field(default=None, init=False)
    _has_advised: bool = field(default=False, init=False)

    def after(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """What is to be said after the log of `step`."""
        now_s = self.clock()
        is_first = self._last_s is None
        if self._last_s is not None and now_s - self._last_s < EVERY_S and step < self.num_steps:
            return []
        self._last_s = now_s
        lines = [self._line(step, metrics)]
        # the first interval waits for the first batch, whatever the settings
        if not is_first and not self._has_advised and metrics["data_wait"] > MUCH_DATA_WAIT:
            self._has_advised = True
            lines.append(self._advice(metrics["data_wait"]))
        return lines

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        """Every loss term, speed over all workers, share of waiting, learning rate and time left."""
        terms = ", ".join(f"{term} {value:.4g}" for term, value in metrics.items() if term not in NOT_TERMS)
        images_per_s = metrics["images_per_s_per_worker"] * self.num_workers
        left_s = (self.num_steps - step) * self.global_batch_size / images_per_s
        return (
            f"{self.name}: step {step:,}/{self.num_steps:,}, loss {metrics['loss']:.4g} ({terms}), "
            f"{images_per_s:,.0f} images/s, data wait {100 * metrics['data_wait']:.0f} %, "
            f"learning rate {metrics['learning_rate']:.3g}, {human_seconds(left_s)} left"
        )

    def _advice(self, data_wait: float) -> str:
        return (
            f"{self.name}: train/data_wait is {100 * data_wait:.0f} %: so much of the time goes into waiting for views "
            "and targets. Where CPUs are short, more threads render (train.resources_per_worker.num_cpus, now "
            f"{self.num_cpus:g}) or nothing is rendered (views.keep: pixels). Where storage is slow, fewer places are "
            "read at once (smaller train.lanes) and less at a time (smaller train.shuffle_window)."
        )

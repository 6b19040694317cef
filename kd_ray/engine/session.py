"""Ray, started late and kept quiet: a run whose stages are all committed never starts it."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kd_ray.config.corpus import Cluster
from kd_ray.errors import ClusterError

# Set before Ray is imported. The two that hide errors of Ray's C++ core from the terminal give way to the user's own
# value: RAY_BACKEND_LOG_LEVEL=info brings everything back.
QUIET_ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}
QUIET_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune")
LOG_LEVEL_LINE = b"Set ray log level from environment variable"  # printed because it is set, at any level
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def is_submitted_job() -> bool:
    """Whether this process is the driver of a `ray job submit`."""
    return JOB_CONFIG_VARIABLE in os.environ


@dataclass
class RaySession:
    """A connection made at the first `start()` and closed at the end of the `with` block."""

    cluster: Cluster
    _started: bool = field(default=False, init=False)

    def __enter__(self) -> "RaySession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            import ray

            ray.shutdown()

    def start(self) -> None:
        """Connect, or start a cluster on this machine; a second call does nothing.

        Raises:
            ClusterError: the address does not answer.
        """
        if self._started:
            return
        for name, value in QUIET_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray

        try:
            on_terminate = signal.getsignal(signal.SIGTERM)
            with _stderr_without(LOG_LEVEL_LINE):
                ray.init(**self._arguments())
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_terminate)  # ray.init has put its own in the place of ours
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self.cluster.address or "this machine"
            raise ClusterError(f"cluster.address: cannot use a Ray cluster at {where}: {error}.") from error
        self._started = True
        hush()

    def start_for(self, what: str, *, num_cpus: float, num_gpus: float, num_workers: int = 1) -> None:
        """`start()`, then make sure that a cluster on this machine can ever give what a stage asks for at once.

        A cluster elsewhere may grow; one here cannot, and Ray would wait for ever without a word.

        Raises:
            ClusterError: it cannot; what is asked and what there is.
        """
        self.start()
        if self.can_grow:
            return
        import ray

        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for name, wanted in (("CPU", num_cpus * num_workers), ("GPU", num_gpus * num_workers)):
            if wanted > total.get(name, 0):
                raise ClusterError(
                    f"{what}: {num_workers} worker(s) need {wanted:g} {name} together, this machine's cluster has "
                    f"{total.get(name, 0):g}. Lower the resources or workers of {what} in the recipe, or use a cluster."
                )

    @property
    def can_grow(self) -> bool:
        """Whether nodes may come that are not there yet: not on a cluster that this run has started here."""
        return self.cluster.address is not None or is_submitted_job()

    def _arguments(self) -> dict[str, Any]:
        shared: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if is_submitted_job():
            return shared
        if self.cluster.address is not None:
            return {"address": self.cluster.address, **shared}
        return {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": self.cluster.num_cpus,
            "object_store_memory": self.cluster.object_store_mib * 2**20,
            "_temp_dir": self.cluster.temp_dir,
            **shared,
        }


@contextmanager
def _stderr_without(unwanted: bytes) -> Iterator[None]:
    """Hold back what C++ code writes to stderr during a block, then pass on every line but the unwanted."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            held.seek(0)
            for line in held:
                if unwanted not in line:
                    os.write(original, line)
            os.close(original)


def hush() -> None:
    """Silence Ray's Python loggers; Ray Data undoes this when it is first used, so it is said again there."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def limit_threads(num_cpus: float) -> int:
    """Keep a worker's libraries to its CPUs; the number of threads it may use for its own work."""
    import cv2
    import torch

    num_threads = max(int(num_cpus), 1)
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(1)  # views are rendered in threads of our own; OpenCV's would fight them for the same cores
    return num_threads


def worker_device(num_gpus: float) -> str:
    """The device of a worker that was given `num_gpus`.

    Raises:
        ClusterError: it was given a GPU that PyTorch cannot use.
    """
    import torch

    if num_gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise ClusterError("this worker was given a GPU, but PyTorch finds none; check the driver and the torch build.")
    return "cuda"

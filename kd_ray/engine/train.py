"""The train stage on Ray Train: one worker group trains student after student, since a group costs 20 s to start."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from kd_ray.config.resources import Resources
from kd_ray.config.tracking import NO_TRACKING
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.corpus.source import SplitName
from kd_ray.engine.board import Standing, watched_board
from kd_ray.engine.failures import own_error
from kd_ray.engine.session import hush, limit_threads, worker_device
from kd_ray.evaluate.predict import evaluating, predict
from kd_ray.storage import is_remote
from kd_ray.students.student import StudentModel
from kd_ray.telemetry.trackers import Tracker, opened_trackers, tracker_names
from kd_ray.telemetry.training_lines import TrainingLines
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import (
    TrainJob,
    build,
    build_network,
    decode_state,
    encode_state,
    is_finished,
    save_run,
    train,
)
from kd_ray.training.mutual import students_of
from kd_ray.training.prepare import prepare
from kd_ray.training.sharding import is_sharded, whole

STATE_FILE = "state.pt"
MAX_WAIT_S = 7 * 24 * 3600  # for one unit, while others are committed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGroup:
    """Students that are trained one after another by the same workers."""

    jobs: tuple[TrainJob, ...]
    evaluation_policy: Policy
    evaluation_batch_size: int
    resources: Resources
    num_workers: int


def train_group(
    group: TrainGroup,
    *,
    name: str,
    storage_uri: str,
    max_failures: int,
    on_progress: Callable[[Standing], None],
    on_line: Callable[[str], None] = lambda _line: None,
) -> None:
    """Train every job of `group` that is not finished; the same `name` and `storage_uri` go on from a last checkpoint.

    Raises:
        KdRayError: whatever of the project's own errors a worker raised.
    """
    hush()
    for attempts_left in reversed(range(max_failures + 1)):
        board = watched_board(on_progress, on_line=on_line)
        if _attempt(group, name=name, storage_uri=storage_uri, watched=board, is_last=attempts_left == 0):
            return


def _attempt(group: TrainGroup, *, name: str, storage_uri: str, watched: watched_board, is_last: bool) -> bool:
    """Run the worker group to its end; False where it failed in a way that another try may mend.

    Ray would retry our own errors too (a wrong model, a corrupt cache, a loss that is not finite), at 20 s a time, so
    the retries are made here, where the two can be told apart. Lost and preempted nodes are Ray's own affair.
    """
    # Ray's stubs describe the older RunConfig; 2.60 runs the v2 one, which has logging_config.
    run_settings: dict[str, Any] = {"logging_config": LoggingConfig(log_level="ERROR")}
    num_gpus = group.resources.num_gpus
    try:
        with watched as board:
            TorchTrainer(
                _train_on_worker,
                train_loop_config={"group": group, "board": board},
                scaling_config=ScalingConfig(
                    num_workers=group.num_workers,
                    use_gpu=num_gpus > 0,
                    resources_per_worker={"CPU": group.resources.num_cpus, **({"GPU": num_gpus} if num_gpus else {})},
                ),
                torch_config=TorchConfig(backend="nccl" if num_gpus else "gloo", timeout_s=_timeout_s(group)),
                run_config=RunConfig(
                    name=name,
                    **_storage(storage_uri),
                    failure_config=FailureConfig(max_failures=0),
                    checkpoint_config=CheckpointConfig(num_to_keep=2),
                    **run_settings,
                ),
            ).fit()
    except (ray.exceptions.RayError, ray.train.TrainingFailedError) as error:
        known = own_error(error)
        if known is not None:
            raise known from None
        if is_last or isinstance(error, ray.exceptions.RayError):
            raise
        return False
    return True


def _timeout_s(group: TrainGroup) -> int:
    """How long a worker waits for the others in a collective operation: as long as any of them waits for a unit."""
    waits = [job.waiting.limit_s for job in group.jobs if job.waiting is not None]
    return TorchConfig().timeout_s if not waits else MAX_WAIT_S


def _storage(uri: str) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints; by fsspec, so that one set of credentials and endpoints serves all."""
    if not is_remote(uri):
        return {"storage_path": uri}
    filesystem, path = fsspec.core.url_to_fs(uri)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}


def _train_on_worker(config: dict[str, Any]) -> None:
    """Runs in each worker process."""
    group: TrainGroup = config["group"]
    limit_threads(group.resources.num_cpus)
    total = sum(job.settings.num_steps * job.stream.global_batch_size for job in group.jobs)
    done = 0
    for job in group.jobs:
        if not is_finished(job):
            _train_job(job, group, board=config["board"], done=done, total=total)
        done += job.settings.num_steps * job.stream.global_batch_size
    ray.train.report({})


def _train_job(job: TrainJob, group: TrainGroup, *, board: Any, done: int, total: int) -> None:
    context = ray.train.get_context()
    device = torch.device(worker_device(group.resources.num_gpus))
    corpus = job.corpus.open()
    student = prepare(build_network(job), job.settings, device)
    world_size = context.get_world_size()
    wraps = world_size > 1 and job.settings.parallel == "ddp"
    network = ray.train.torch.prepare_model(student, move_to_device=False, parallel_strategy="ddp" if wraps else None)
    # of a sharded student a plain copy is measured and saved: workers that measure unlike shares cannot gather together
    first = students_of(student)[0]
    plain = build(job).to(device) if is_sharded(first) else student
    hooks = _WorkerHooks(
        job=job,
        group=group,
        board=board,
        network=first,
        student=students_of(plain)[0],
        corpus=corpus,
        done=done,
        total=total,
    )
    resume = _restored(job)
    tracking = job.tracking if context.get_world_rank() == 0 else NO_TRACKING
    with opened_trackers(
        tracking, run_uri=job.run_uri, name=job.name, facts=job.facts(), first_step=_step_of(resume)
    ) as trackers:
        result = train(
            job,
            network,
            corpus=corpus,
            worker=context.get_world_rank(),
            num_workers=world_size,
            hooks=hooks,
            resume=resume,
            on_wait=hooks.wait,
            on_entry=partial(_track, trackers),
        )
    if world_size > 1:
        num_rounded = torch.tensor(result.num_rounded, device=device)
        torch.distributed.all_reduce(num_rounded)
        result = replace(result, num_rounded=int(num_rounded))
    if context.get_world_rank() == 0:
        save_run(job, plain, result)


def _track(trackers: Sequence[Tracker], entry: Metrics) -> None:
    for tracker in trackers:
        tracker.log(int(entry["step"]), tracker_names(entry))


def _step_of(state: State | None) -> int:
    return 0 if state is None else int(state["step"]) + 1


def _restored(job: TrainJob) -> State | None:
    """The state of this job in the last checkpoint; None where the checkpoint is of an earlier job."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state = decode_state((Path(folder) / STATE_FILE).read_bytes())
    return state if state["job"] == job.run_uri else None


class _WorkerHooks:
    """Ties the training loop of one worker to Ray Train; all workers call at the same steps."""

    def __init__(
        self,
        *,
        job: TrainJob,
        group: TrainGroup,
        board: Any,
        network: StudentModel,
        student: StudentModel,
        corpus: PackedCorpus,
        done: int,
        total: int,
    ) -> None:
        self._job, self._group, self._board, self._student, self._corpus = job, group, board, student, corpus
        self._network = network
        self._done, self._total = done, total
        self._logged = done
        self._lines = TrainingLines(
            name=job.name,
            num_steps=job.settings.num_steps,
            num_workers=group.num_workers,
            global_batch_size=job.stream.global_batch_size,
            num_cpus=group.resources.num_cpus,
        )
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()

    def wait(self, note: str) -> None:
        """Any worker may wait, and all wait for it."""
        self._board.write.remote(Standing(self._logged, self._total, f"{self._job.name} {note}"))

    def log(self, step: int, metrics: Metrics) -> None:
        self._logged = self._done + step * self._job.stream.global_batch_size
        if self._rank == 0:
            note = f"{self._job.name}: loss {metrics['loss']:.3f}"
            self._board.write.remote(Standing(self._logged, self._total, note))
            for line in self._lines.after(step, metrics):
                self._board.tell.remote(line)

    def evaluate(self, step: int) -> Metrics:
        """Top-1 on the val split, on test where there is none; each worker looks at its share of the row groups."""
        if not self._job.losses.train_logits or self._job.num_classes != len(self._corpus.classes):
            return {}
        if self._network is not self._student:
            self._student.load_state_dict(whole(dict(self._network.state_dict())))
        split: SplitName = "val" if self._corpus.num_samples("val") else "test"
        with evaluating(self._student) as student:
            found = predict(
                lambda inputs: student(inputs)["logits"],
                self._corpus,
                split=split,
                policy=self._group.evaluation_policy,
                size=self._job.student.input,
                batch_size=self._group.evaluation_batch_size,
                device=next(student.parameters()).device,
                part=self._rank,
                num_parts=self._world_size,
            )
        known = found.labels >= 0
        correct = int((found.logits_NK[known].argmax(axis=1) == found.labels[known]).sum()) if known.any() else 0
        counts = torch.tensor([correct, int(known.sum())], device=next(self._student.parameters()).device)
        if self._world_size > 1:
            torch.distributed.all_reduce(counts)
        return {f"{split}_top1": float(counts[0] / counts[1])} if counts[1] else {}

    def checkpoint(self, state: State) -> None:
        metrics = {"step": state["step"], "job": self._job.name}
        if self._rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / STATE_FILE).write_bytes(encode_state({**state, "job": self._job.run_uri}))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

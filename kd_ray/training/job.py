"""One student's training, from a description that travels to another machine to weights and a history on storage."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import nn

from kd_ray.cache.order import Order
from kd_ray.cache.transforms import FrozenTransform
from kd_ray.config.corpus import Labels
from kd_ray.config.student import Student
from kd_ray.config.tracking import NO_TRACKING, Tracking
from kd_ray.config.train import MissingTargets
from kd_ray.corpus.packed import CorpusAddress, PackedCorpus
from kd_ray.models.weights import save_weights
from kd_ray.storage import join, open_storage
from kd_ray.students.grids import Cover
from kd_ray.students.student import StudentModel, build_student
from kd_ray.training.averaging import StoredShelf
from kd_ray.training.balance import build_balance
from kd_ray.training.batches import BatchStream, NoTargets, StreamSettings, TargetSource
from kd_ray.training.fit import FitResult, FitSettings, Hooks, Metrics, State, fit, samples_consumed
from kd_ray.training.losses.weighted import WeightedLosses, term_name
from kd_ray.training.mutual import MutualLosses, MutualStudents, own_history, own_weights, students_of
from kd_ray.training.partial import PartialTargets, PartialViews
from kd_ray.training.prepare import determinism, prepare
from kd_ray.training.sources import CachedSource, LiveSource, PartialSource
from kd_ray.training.standardize import Standardizer
from kd_ray.training.views import ReplayedViews, ViewSource
from kd_ray.training.waiting import Patience, Waiting

WEIGHTS_FILE = "model.safetensors"
HEADS_FILE = "heads.safetensors"
RUN_FILE = "run.json"
BEST_FOLDER = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the cache lacked when a run on a part of it was planned, and what became of that: for people."""

    policy: MissingTargets
    num_units: int
    num_views: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """The other student of a loop, and how the two learn from each other's logits."""

    partner: "TrainJob"
    weight: float
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One student, its data, its losses and its schedule.

    `target_shapes` are, for each kind of views, those of the feature losses' targets by the loss's index. `source` has
    what is cached by kind, the teachers in the loop, or both; None is training without a teacher. `transforms`, by a
    loss's index, standardise its targets. `waiting` says how long to wait for what is not cached yet, and `snapshot`
    what a run on a part of a cache was planned with. `covers` are, by kind and loss, what of a view the grids of the
    target and of the student cover, where that is not the same. With `together` another student trains in the same
    loop, on this one's batches.
    """

    name: str
    run_uri: str
    corpus: CorpusAddress
    labels: Labels
    student: Student
    num_classes: int
    losses: WeightedLosses
    target_shapes: Sequence[Mapping[int, tuple[int, ...]]]
    stream: StreamSettings
    order: Order
    source: Mapping[str, CachedSource] | LiveSource | PartialSource | None
    settings: FitSettings
    seed: int
    transforms: Mapping[int, FrozenTransform] = field(default_factory=dict)
    waiting: Waiting | None = None
    snapshot: Snapshot | None = None
    covers: Sequence[Mapping[int, tuple[Cover, Cover]]] = ()
    tracking: Tracking = NO_TRACKING
    together: Together | None = None

    def facts(self) -> dict[str, str]:
        """What tells this run from others, for trackers."""
        optimizer = self.settings.optimizer
        return {
            "student": self.student.model.title,
            "losses": ", ".join(term_name(index, loss) for index, loss in enumerate(self.losses.losses)),
            "num_steps": str(self.settings.num_steps),
            "global_batch_size": str(self.stream.global_batch_size),
            "optimizer": optimizer.kind,
            "learning_rate": str(optimizer.learning_rate),
            "precision": self.settings.precision,
            "seed": str(self.seed),
        }

    @property
    def members(self) -> "tuple[TrainJob, ...]":
        """The students that train in this loop: this one, and its partner."""
        return (self,) if self.together is None else (self, self.together.partner)

    def losses_on(self, device: torch.device) -> WeightedLosses | MutualLosses:
        """The losses, with the transforms of their targets on `device`; raises what opening those does."""
        opened = {index: Standardizer.of(each.open(), device) for index, each in self.transforms.items()}
        own = replace(self.losses, standardizers=opened)
        if self.together is None:
            return own
        of_partner = self.together.partner.losses_on(device)
        assert isinstance(of_partner, WeightedLosses), "a partner has no partner of its own"
        return MutualLosses(
            students=(own, of_partner), weight=self.together.weight, temperature=self.together.temperature
        )


def is_finished(job: TrainJob) -> bool:
    """Whether the job's final weights have been committed."""
    return open_storage(job.run_uri).exists(RUN_FILE)


def build(job: TrainJob) -> StudentModel:
    """The job's student, initialised from its seed (or its weights)."""
    torch.manual_seed(job.seed)
    return build_student(
        job.student,
        num_classes=job.num_classes,
        losses=job.losses.losses,
        target_shapes=job.target_shapes,
        covers=job.covers,
        balance=build_balance(job.losses.balance, num_teachers=len(job.losses.teacher_names)),
    )


def build_network(job: TrainJob) -> StudentModel | MutualStudents:
    """What one loop trains: the job's student, or it and its partner."""
    students = [build(each) for each in job.members]
    return students[0] if job.together is None else MutualStudents(students)


def open_source(
    job: TrainJob, device: torch.device, *, patience: Patience | None = None
) -> tuple[Mapping[str, TargetSource], Mapping[str, ViewSource] | None]:
    """By kind of view where the job's targets come from, and its views where they are read.

    Raises:
        FingerprintMismatch, CacheIncomplete: the cache does not hold what the run was planned with.
    """
    match job.source:
        case None:
            return {kind.name: NoTargets() for kind in job.stream.kinds}, None
        case LiveSource():
            return job.source.open(device), None
        case PartialSource():
            return _open_partial(job.source, device, view_seed=job.stream.view_seed)
        case sources:
            cached = {kind: source.open(device, patience=patience) for kind, source in sources.items()}
            stored = {
                kind: cached[kind].stored_views(source.kept)
                for kind, source in sources.items()
                if source.kept is not None
            }
            return cached, stored or None


def _open_partial(
    source: PartialSource, device: torch.device, *, view_seed: int
) -> tuple[Mapping[str, TargetSource], Mapping[str, ViewSource] | None]:
    live = source.live.open(device)
    targets, views = {}, {}
    for kind, each in source.cached.items():
        pinned, store = each.open_rest(source.missing[kind])
        targets[kind] = PartialTargets(pinned, seen=each.seen(store, pinned), live=live[kind])
        if each.kept is not None:
            replayed = ReplayedViews(policy=each.policy, seed=view_seed, kept=each.kept)
            stored = each.stored(store, pinned)
            views[kind] = PartialViews(pinned.views, stored=stored, replayed=replayed)
    return targets, views or None


def _patience(job: TrainJob, on_wait: Callable[[str], None]) -> Patience | None:
    if job.waiting is None or not isinstance(job.source, Mapping):
        return None
    sources = job.source.values()
    return Patience(job.waiting, num_committed=lambda: sum(each.num_committed() for each in sources), on_wait=on_wait)


def train(
    job: TrainJob,
    network: nn.Module,
    *,
    corpus: PackedCorpus,
    worker: int,
    num_workers: int,
    hooks: Hooks,
    resume: State | None,
    on_wait: Callable[[str], None] = lambda _note: None,
    on_entry: Callable[[Metrics], None] = lambda _entry: None,
) -> FitResult:
    """Train `network` on this worker's share of every batch; `on_wait` hears from any thread what it waits for, and
    `on_entry` of every entry of the history.
    """
    device = next(network.parameters()).device
    patience = _patience(job, on_wait)
    targets, views = open_source(job, device, patience=patience)
    losses = job.losses_on(device)
    stream = BatchStream(
        job.stream,
        job.order,
        corpus=corpus,
        usable_labels=frozenset(corpus.labelled_ids("train", job.labels).tolist()),
        targets=targets,
        views=views,
    )
    consumed = samples_consumed(resume, samples_per_step=job.stream.samples_per_step)
    batches = stream.batches(worker=worker, num_workers=num_workers, consumed=consumed)
    shelf = StoredShelf(open_storage(join(job.run_uri, BEST_FOLDER)))
    try:
        with determinism(on=job.settings.deterministic):
            result = fit(
                network,
                batches,
                losses,
                settings=job.settings,
                hooks=hooks,
                resume=resume,
                shelf=shelf,
                on_entry=on_entry,
            )
        return replace(result, num_rounded=sum(each.num_rounded for each in targets.values()))
    finally:
        if patience is not None:
            patience.stop()
        batches.close()


def save_run(job: TrainJob, network: StudentModel | MutualStudents, result: FitResult) -> None:
    """Of every student of the loop, the job's own last: weights first, then the record that makes the run exist.

    `network`, a plain one, gets the exported weights. Where an average is exported, the last step's weights lie beside
    it.
    """
    for index, (member, student) in reversed(list(enumerate(zip(job.members, students_of(network), strict=True)))):
        _save_student(member, student, result if job.together is None else _of_student(result, index))
    if result.best_steps:
        StoredShelf(open_storage(join(job.run_uri, BEST_FOLDER))).prune(result.best_steps)


def _of_student(result: FitResult, index: int) -> FitResult:
    """What a loop over both students leaves of one."""
    weights = {name: own_weights(each, index) for name, each in result.weights.items()}
    return replace(result, history=own_history(result.history, index), weights=weights)


def _save_student(job: TrainJob, student: StudentModel, result: FitResult) -> None:
    storage = open_storage(job.run_uri)
    files = {name: weights_file(name, exported=result.exported) for name in result.weights}
    for name in sorted(files, key=lambda name: name == result.exported):
        student.load_state_dict(result.weights[name])
        save_weights(student.backbone, storage, files[name])
    if len(student.heads):  # those of the exported weights, which were loaded last
        save_weights(student.heads, storage, HEADS_FILE)
    record = {
        "name": job.name,
        "num_steps": result.num_steps,
        "seconds": round(result.seconds, 3),
        "data_wait_s": round(result.data_wait_s, 3),
        "images": result.num_steps * job.stream.global_batch_size,
        "num_parameters": sum(parameter.numel() for parameter in student.backbone.parameters()),
        "num_rounded_views": result.num_rounded,
        "snapshot": asdict(job.snapshot) if job.snapshot is not None else None,
        "stopped": result.stopped,
        "exported": result.exported,
        "weights": files,
        "history": result.history,
    }
    storage.write(RUN_FILE, json.dumps(record, indent=1).encode())


def weights_file(name: str, *, exported: str) -> str:
    """Where the weights `name` of a run lie, `exported` being those that count."""
    return WEIGHTS_FILE if name == exported else WEIGHTS_FILE.replace(".", f"-{name}.", 1)


def encode_state(state: State) -> bytes:
    """A loop's state as bytes that load with `weights_only`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def decode_state(data: bytes) -> State:
    """The inverse of `encode_state`; never runs a pickle's code."""
    state: State = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return state


class _Quiet:
    """Hooks of a run that nobody watches."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Nobody reads it."""

    def evaluate(self, step: int) -> Metrics:
        """Not measured on the way."""
        return {}

    def checkpoint(self, state: State) -> None:
        """A run this short starts again."""


def train_alone(job: TrainJob, *, device: str, hooks: Hooks | None = None) -> FitResult:
    """Build, train and save the job's student in this process alone."""
    student = prepare(build_network(job), job.settings, torch.device(device))
    result = train(
        job,
        student,
        corpus=job.corpus.open(),
        worker=0,
        num_workers=1,
        hooks=hooks or _Quiet(),
        resume=None,
    )
    save_run(job, student, result)
    return result

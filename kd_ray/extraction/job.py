"""Everything one extraction worker needs, in a form that travels to another machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import open_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import CorpusAddress
from kd_ray.errors import FingerprintMismatch
from kd_ray.extraction.rendering import FarRendering, UnitRenderer
from kd_ray.extraction.unit import Generations, Seat, UnitExtractor
from kd_ray.teachers.frozen import FrozenTeacher


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractJob:
    """One teacher over one view set of one split."""

    teacher_name: str
    teacher: Teacher
    num_classes: int | None
    weights_uri: str | None
    weights_fingerprint: str
    corpus: CorpusAddress
    cache_uri: str
    policy: Policy
    view_seed: int
    view_set: Spec
    kept: KeptFormat | None
    verify_one_in: int
    grid: Grid
    target_set: Spec
    outputs: Mapping[str, Spec]
    calibrating: Unit | None
    generations: Generations = field(default_factory=dict)

    def batch_size_on(self, accelerator: str | None) -> int:
        """Views that go through the teacher at once, on a node with that accelerator type."""
        resources = self.teacher.resources
        named = resources.accelerators.get(accelerator or "")
        return named.batch_size_per_worker if named is not None else resources.batch_size_per_worker


def build_renderer(job: ExtractJob, *others: ExtractJob) -> UnitRenderer:
    """Renders views for `job` on this machine, and for others on the same views; it knows no teacher."""
    return UnitRenderer(
        corpus=job.corpus.open(),
        view_store=open_view_store(job.cache_uri, job.view_set, grid=job.grid, corpus_uri=job.corpus.uri),
        policy=job.policy,
        view_seed=job.view_seed,
        kept=job.kept,
        verify_one_in=job.verify_one_in,
        sizes=_distinct([each.teacher.input for each in (job, *others)]),
    )


def _distinct(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """Of inputs that differ in nothing but what is done with pixels once they are rendered, the first."""
    return tuple({_rendered_as(each): each for each in reversed(inputs)}.values())


def _rendered_as(input: Input) -> tuple[object, ...]:
    return input.size_px, input.interpolation


def load_frozen(job: ExtractJob, *, device: str, batch_size: int) -> FrozenTeacher:
    """The teacher of `job`.

    Raises:
        FingerprintMismatch: the weights have changed since the run was planned.
    """
    teacher = FrozenTeacher(
        job.teacher,
        num_classes=job.num_classes,
        weights_uri=job.weights_uri,
        device=device,
        batch_size=batch_size,
    )
    if teacher.weights_fingerprint != job.weights_fingerprint:
        raise FingerprintMismatch(
            f"{job.weights_uri or job.teacher_name}: weights are {teacher.weights_fingerprint[:12]}, the run was "
            f"planned with {job.weights_fingerprint[:12]}. Somebody replaced them meanwhile; run again."
        )
    return teacher


def build_extractor(
    job: ExtractJob,
    *others: ExtractJob,
    device: str,
    batch_size: int,
    num_threads: int,
    far: FarRendering | None = None,
) -> UnitExtractor:
    """The extractor of `job`, and of others on the same views, on this machine; loads the teachers, so it is built once
    per worker.

    `far` renders elsewhere; without it threads here do. Raises what `load_frozen` does.
    """
    jobs = (job, *others)
    assert len({each.view_set.fingerprint for each in jobs}) == 1, "teachers that share a worker see the same views"
    renderer = build_renderer(*jobs)
    places = {_rendered_as(each): place for place, each in enumerate(renderer.sizes)}
    return UnitExtractor(
        [
            Seat(
                teacher=load_frozen(each, device=device, batch_size=batch_size),
                outputs={
                    name: open_output(each.cache_uri, each.target_set, spec, create=True)
                    for name, spec in each.outputs.items()
                },
                calibrating=each.calibrating,
                generations=each.generations,
                size_index=places[_rendered_as(each.teacher.input)],
            )
            for each in jobs
        ],
        renderer=renderer,
        num_threads=num_threads,
        batch_size=batch_size,
        far=far,
    )

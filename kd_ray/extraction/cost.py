"""What a plan costs: bytes, objects, hours, money, and when a cache pays for itself. Numbers in, numbers out.

Without a cache a student pays, for every view of every epoch, the teacher's forward pass and the rendering of the view
at the teacher's size; decoding and its own work it pays with a cache, too. With one, every view is decoded, rendered,
computed and written once, and each epoch reads what it needs. So

    seconds without = student epochs x views an epoch x (rendering + teacher)
    seconds with    = views x (decoding + rendering + teacher + writing) + student epochs x views an epoch x reading
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from kd_ray.cache.codecs import Coding
from kd_ray.config.outputs import Codec

SECONDS_AN_HOUR = 3600.0
RECORDS_PER_GROUP = 2  # the commit, and the description of the Zarr group
OBJECTS_PER_ARRAY = 2  # its description, and its values
NUM_ARRAYS: Mapping[Codec, int] = {"float32": 1, "float16": 1, "bfloat16": 1, "int8": 2, "uint8": 3, "top_k": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetVolume:
    """One teacher's targets on one view set; `num_units` is None where nothing is packed yet."""

    teacher: str
    views_of: str
    is_training: bool
    num_views: int
    num_missing_views: int
    num_units: int | None
    codings: Mapping[str, Coding]

    @property
    def bytes_per_view(self) -> dict[str, int]:
        """Of each output, without checksums; with a basis that is not fixed yet, at most."""
        return {name: coding.bytes_per_view for name, coding in self.codings.items()}

    @property
    def num_bytes(self) -> int:
        """Of all views."""
        return self.num_views * sum(self.bytes_per_view.values())

    @property
    def num_missing_bytes(self) -> int:
        """Of the views that are missing."""
        return self.num_missing_views * sum(self.bytes_per_view.values())

    @property
    def num_objects(self) -> int | None:
        """Objects on storage: of each unit and output its arrays, the sample ids, descriptions and the commit."""
        if self.num_units is None:
            return None
        arrays = sum(NUM_ARRAYS[coding.codec] + 1 for coding in self.codings.values())
        return self.num_units * (RECORDS_PER_GROUP * len(self.codings) + OBJECTS_PER_ARRAY * arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCost:
    """Seconds of one view of one teacher: wall time of one thread, of the teacher alone, and its CPU time.

    `decode_s` is that of an image, which is decoded once for the views of a unit.
    """

    decode_s: float
    render_s: float
    teacher_s: float
    teacher_cpu_s: float
    write_s: float
    read_s: float


def extraction_seconds_per_view(
    cost: ViewCost, *, views_per_decode: int, num_threads: int, num_cores: float, num_workers: int = 1
) -> float:
    """Wall time of a view in one worker, whose threads render while the teacher computes; writing comes after.

    `num_cores` are those of the machine, which its `num_workers` share.
    """
    prepare_s = cost.decode_s / views_per_decode + cost.render_s
    all_cpu_s = prepare_s + cost.teacher_cpu_s
    return max(prepare_s / num_threads, cost.teacher_s, all_cpu_s * num_workers / num_cores) + cost.write_s


def teacher_idle_share(cost: ViewCost, *, seconds_per_view: float) -> float:
    """The share of a worker's time in which its teacher waits for views or for writing."""
    return max(0.0, 1.0 - cost.teacher_s / seconds_per_view)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorCost:
    """Of one teacher's missing views on one accelerator type; `price` is None where no price is known."""

    teacher: str
    accelerator: str
    views_per_s: float
    hours: float
    price: float | None


def accelerator_cost(
    teacher: str, accelerator: str, *, num_views: int, views_per_s: float, price_per_hour: float | None
) -> AcceleratorCost:
    """Hours of one accelerator, and their price."""
    hours = num_views / views_per_s / SECONDS_AN_HOUR
    price = None if price_per_hour is None else hours * price_per_hour
    return AcceleratorCost(teacher=teacher, accelerator=accelerator, views_per_s=views_per_s, hours=hours, price=price)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """When the cache has saved what it cost; a student epoch is one epoch of one student.

    `student_epochs` is infinite where an epoch from the cache is no cheaper.
    """

    extraction_s: float
    saved_s_per_epoch: float
    planned_student_epochs: float

    @property
    def student_epochs(self) -> float:
        """Epochs times students at which the cache pays for itself."""
        return self.extraction_s / self.saved_s_per_epoch if self.saved_s_per_epoch > 0 else inf

    @property
    def pays(self) -> bool:
        """Whether what the recipe trains is enough."""
        return self.planned_student_epochs > self.student_epochs


def break_even(
    volumes: Sequence[TargetVolume],
    costs: Mapping[str, ViewCost],
    *,
    views_per_epoch: int,
    views_per_decode: int,
    planned_student_epochs: float,
) -> BreakEven:
    """Of all teachers together, in seconds of one worker; views of evaluation are not counted: they are scored once."""
    extraction_s, saved_s = 0.0, 0.0
    for name, cost in costs.items():
        num_views = sum(each.num_views for each in volumes if each.teacher == name and each.is_training)
        once_s = cost.decode_s / views_per_decode + cost.render_s + cost.teacher_s + cost.write_s
        extraction_s += num_views * once_s
        saved_s += views_per_epoch * (cost.render_s + cost.teacher_s - cost.read_s)
    return BreakEven(
        extraction_s=extraction_s, saved_s_per_epoch=saved_s, planned_student_epochs=planned_student_epochs
    )


def student_epoch_seconds(
    *, num_images: int, step_s_per_image: float, prepare_s_per_image: float, num_threads: int, num_workers: int
) -> float:
    """An epoch of one student whose batches are made by threads while it computes."""
    return num_images / num_workers * max(step_s_per_image, prepare_s_per_image / num_threads)

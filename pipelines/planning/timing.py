"""The rates of a recipe on this machine: timed on a few of its own images, before anything is packed or trained."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kd_ray.config.models import Input
from kd_ray.config.recipe import Recipe
from kd_ray.config.teacher import Teacher
from kd_ray.corpus.packed import Rows
from kd_ray.evaluate.sheet_samples import training_group
from kd_ray.extraction.calibrate import NUM_IMAGES, StorageRate, probe_storage, time_rendering, time_teacher
from kd_ray.extraction.cost import TargetVolume, ViewCost
from kd_ray.storage import open_storage
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.telemetry.progress import Meter
from kd_ray.training.calibrate import time_student_step
from pipelines.planning.volumes import Counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Costs of a view by teacher (of the first kind of views), of an image for the student, and the storage."""

    accelerator: str
    costs: Mapping[str, ViewCost]
    storage: StorageRate
    step_s_per_image: float
    prepare_s_per_image: float
    notes: tuple[str, ...]


def time_recipe(recipe: Recipe, counted: Counted, *, meter: Meter) -> Timed:
    """Time every teacher, the student and the cache's storage; nothing stays behind.

    Raises:
        CorpusError: no image can be read.
        WeightsError, ModelError: a teacher cannot be loaded.
        StorageError: the cache's location cannot be written.
    """
    policy = recipe.views.policy
    kind = policy.kind_names[0]
    group = training_group(
        recipe.corpus,
        num_samples=NUM_IMAGES,
        report=lambda done: meter.update(done, total=NUM_IMAGES, note="reading images"),
        with_masks=policy.reads_masks,
    )
    rows = _first(group.as_rows(), NUM_IMAGES)
    storage = probe_storage(open_storage(recipe.cache.uri))
    notes, costs = [], {}
    device = _device()
    for name, config in recipe.all_teachers().items():
        volume = next((each for each in counted.volumes if each.teacher == name), None)
        if config.network is None or volume is None:
            continue
        if config.resources.num_gpus and device == "cpu":
            notes.append(
                f"{name}: asks for a GPU, of which this machine has none: its time is that of this CPU. Give --rates."
            )
        meter.update(0, note=f"timing {name}")
        costs[name] = _time_teacher(
            recipe, config, volume, rows, counted=counted, storage=storage, device=_device_for(config, device)
        )
    meter.update(0, note="timing the student")
    threads = max(int(recipe.train.resources_per_worker.num_cpus), 1)
    step_s = time_student_step(
        recipe.student,
        num_classes=counted.num_classes,
        optimizer=recipe.train.optimizer,
        batch_size=max(recipe.train.global_batch_size // recipe.train.num_workers, 1),
        num_threads=threads,
    )
    shown = time_rendering(
        rows,
        policy=policy.of_kind(kind),
        seed=recipe.views.seed,
        input=recipe.student.input.of_kind(policy, kind),
        kept=None,
        num_pixels=1,
    )
    crops = sum(policy.num_crops(each) for each in policy.kind_names)
    read_s = sum(cost.read_s for cost in costs.values())
    return Timed(
        accelerator=f"this machine ({device})",
        costs=costs,
        storage=storage,
        step_s_per_image=step_s * crops,
        prepare_s_per_image=shown.decode_s + crops * (shown.render_s + read_s),
        notes=tuple(notes),
    )


def _time_teacher(
    recipe: Recipe,
    config: Teacher,
    volume: TargetVolume,
    rows: Rows,
    *,
    counted: Counted,
    storage: StorageRate,
    device: str,
) -> ViewCost:
    policy, batch_size = recipe.views.policy, config.resources.batch_size_per_worker
    kind = policy.kind_names[0]
    input: Input = config.input.of_kind(policy, kind)
    rendering = time_rendering(
        rows,
        policy=policy.of_kind(kind),
        seed=recipe.views.seed,
        input=input,
        kept=recipe.views.kept(kind),
        num_pixels=batch_size,
    )
    outputs = config.outputs.only(tuple(volume.codings))
    seen = config.model_copy(update={"input": input, "outputs": outputs})
    num_classes = counted.teacher_classes[volume.teacher]
    with tempfile.TemporaryDirectory() as folder:
        # of a teacher that is still to be finetuned the weights do not matter to its speed
        weights_uri = None if config.finetune is None else _random_weights(config, folder, num_classes=num_classes)
        teacher = FrozenTeacher(
            seen, num_classes=num_classes, weights_uri=weights_uri, device=device, batch_size=batch_size
        )
        return time_teacher(
            teacher,
            rendering,
            codings=volume.codings,
            storage=storage,
            num_threads=max(int(config.resources.num_cpus), 1),
        )


def _random_weights(config: Teacher, folder: str, *, num_classes: int | None) -> str:
    from kd_ray.models import build_model, save_weights, without_pretrained

    assert config.network is not None
    module = build_model(without_pretrained(config.network), num_classes=num_classes)
    save_weights(module, open_storage(folder), "random.safetensors")
    return f"{folder}/random.safetensors"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_for(config: Teacher, device: str) -> str:
    return device if config.resources.num_gpus else "cpu"


def _first(rows: Rows, num_rows: int) -> Rows:
    """The first rows, as a row group of their own."""
    count = min(num_rows, len(rows.images))
    return replace(
        rows,
        sample_ids=rows.sample_ids[:count],
        sizes_px=rows.sizes_px[:count],
        images=rows.images[:count],
        rows_per_group=(count,),
        masks=rows.masks[:count],
    )

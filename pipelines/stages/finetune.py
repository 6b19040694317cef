"""finetune: weights for every teacher, trained here where the recipe asks, then frozen."""

from collections.abc import Mapping, Sequence

from kd_ray.cache.plan import spans_of
from kd_ray.config.losses import CrossEntropyLoss
from kd_ray.config.models import ImportedModel
from kd_ray.config.networks import ExportedModel
from kd_ray.config.student import Student
from kd_ray.config.teacher import Finetune, Teacher
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.masks import refuse_without_masks
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.models.weights import weights_file
from kd_ray.storage import join
from kd_ray.storage.signature import signature
from kd_ray.telemetry.progress import Meter
from kd_ray.training.batches import StreamSettings, stream_kinds
from kd_ray.training.fit import FitSettings
from kd_ray.training.job import WEIGHTS_FILE, TrainJob, is_finished
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.snapshot import labelled_order
from pipelines.context import Record, Run, key_of, show_on
from pipelines.stages.imported import find_imported, imported_teacher

NEVER = 10**9


def prepare_teachers(run: Run, corpus: PackedCorpus) -> dict[str, KnownTeacher]:
    """Every teacher of the recipe with weights that exist and are known by their fingerprint."""
    known = {name: _prepare(run, corpus, name, config) for name, config in run.recipe.all_teachers().items()}
    if all(teacher.config.finetune is None for teacher in known.values()):
        run.skipped_outcome("finetune", detail=", ".join(_describe(teacher) for teacher in known.values()))
    return known


def teachers_at_hand(run: Run, corpus: PackedCorpus) -> dict[str, KnownTeacher]:
    """Every teacher of the recipe as it is now; nothing is trained and nothing is written.

    Raises:
        RecipeError: a teacher is still to be finetuned.
    """
    return {name: _at_hand(run, corpus, name, config) for name, config in run.recipe.all_teachers().items()}


def known_teacher(run: Run, corpus: PackedCorpus, name: str, config: Teacher) -> KnownTeacher | None:
    """The teacher where its weights exist and have been looked at; None where there is work to do first."""
    if isinstance(config.model, ImportedModel):
        return find_imported(run.recipe.cache.uri, corpus, name, config)
    num_classes = num_classes_of(config, corpus)
    record = run.record("teacher", _record_key(run, corpus, config, num_classes))
    return None if record is None else _of_record(name, config, record, num_classes=num_classes)


def _of_record(name: str, config: Teacher, record: Record, *, num_classes: int | None) -> KnownTeacher:
    return KnownTeacher(
        name=name,
        config=config,
        num_classes=num_classes,
        weights_uri=record["weights_uri"],
        weights_fingerprint=record["weights_fingerprint"],
        shapes=_as_shapes(record["shapes"]),
        num_parameters=record["num_parameters"],
        kind_shapes={kind: _as_shapes(shapes) for kind, shapes in record.get("kind_shapes", {}).items()},
    )


def _as_shapes(recorded: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {output: tuple(shape) for output, shape in recorded.items()}


def num_classes_of(config: Teacher, corpus: PackedCorpus) -> int | None:
    """The recipe's, else the corpus's; None for the model's own where it comes pretrained and is not trained here."""
    if config.num_classes is not None:
        return config.num_classes
    own = config.model.comes_with_weights and config.weights is None
    return None if own and config.finetune is None else len(corpus.classes) or None


def _prepare(run: Run, corpus: PackedCorpus, name: str, config: Teacher) -> KnownTeacher:
    if isinstance(config.model, ImportedModel):
        return imported_teacher(run.recipe.cache.uri, corpus, name, config)
    weights_key = _weights_key(run, corpus, config)
    weights_uri = config.weights
    if config.finetune is not None:
        if run.recipe.views.policy.kinds:  # it trains at their sizes, which must not fail in the middle
            _shapes_seen(config, run.recipe.views.policy, num_classes=num_classes_of(config, corpus))
        job = _finetune_job(run, corpus, name, config, config.finetune, key=weights_key)
        weights_uri = join(job.run_uri, WEIGHTS_FILE)
        if not is_finished(job):
            _refuse_without_masks(run, corpus)
            _finetune(run, job, config.finetune, key=weights_key)
    known = known_teacher(run, corpus, name, config) or _look_at(run, corpus, name, config, weights_uri=weights_uri)
    if config.finetune is not None and not any(each.stage == "finetune" for each in run.outcomes):
        run.committed_outcome("finetune", key=weights_key, detail=_describe(known))
    return known


def _refuse_without_masks(run: Run, corpus: PackedCorpus) -> None:
    """As the plan does, which comes after this stage: a sample without a mask must not end it in the middle."""
    spans = spans_of({shard.name: len(shard.rows_per_group) for shard in corpus.shards("train")}, unit_row_groups=1)
    refuse_without_masks(corpus, spans, policy=run.recipe.views.policy)


def _finetune(run: Run, job: TrainJob, finetune: Finetune, *, key: str) -> None:
    def do(meter: Meter) -> tuple[None, int, str]:
        resources = finetune.resources
        run.session.start_for("finetune", num_cpus=resources.num_cpus, num_gpus=resources.num_gpus)
        from kd_ray.engine.finetune import finetune_on_worker

        finetune_on_worker(job, resources=finetune.resources, on_progress=show_on(meter))
        images = finetune.steps * finetune.global_batch_size
        return None, images, f"{job.name}: {job.student.model.title}, {finetune.steps:,} steps"

    run.work("finetune", do, key=key)


def _look_at(run: Run, corpus: PackedCorpus, name: str, config: Teacher, *, weights_uri: str | None) -> KnownTeacher:
    """Load the weights once, for their fingerprint and the shapes of the outputs, and keep what was found."""
    num_classes = num_classes_of(config, corpus)
    record = _seen(run, config, weights_uri=weights_uri, num_classes=num_classes)
    run.write_record("teacher", _record_key(run, corpus, config, num_classes), record)
    return _of_record(name, config, record, num_classes=num_classes)


def _at_hand(run: Run, corpus: PackedCorpus, name: str, config: Teacher) -> KnownTeacher:
    if isinstance(config.model, ImportedModel):
        return imported_teacher(run.recipe.cache.uri, corpus, name, config)
    weights_uri = config.weights
    if config.finetune is not None:
        key = _weights_key(run, corpus, config)
        job = _finetune_job(run, corpus, name, config, config.finetune, key=key)
        if not is_finished(job):
            raise RecipeError(
                f"teacher {name}: is to be finetuned into {job.run_uri}, which has not been done. Run the recipe "
                "first, or give its out=… where it was run."
            )
        weights_uri = join(job.run_uri, WEIGHTS_FILE)
    known = known_teacher(run, corpus, name, config)
    if known is not None:
        return known
    num_classes = num_classes_of(config, corpus)
    record = _seen(run, config, weights_uri=weights_uri, num_classes=num_classes)
    return _of_record(name, config, record, num_classes=num_classes)


def _seen(run: Run, config: Teacher, *, weights_uri: str | None, num_classes: int | None) -> Record:
    """What a look at the weights finds."""
    from kd_ray.models import network_fingerprint
    from kd_ray.teachers.frozen import load_teacher

    shapes, kind_shapes = _shapes_seen(config, run.recipe.views.policy, num_classes=num_classes)
    module = load_teacher(config, num_classes=num_classes, weights_uri=weights_uri)
    return {
        "weights_uri": weights_uri,
        "weights_fingerprint": network_fingerprint(config.model, module),
        "shapes": shapes,
        "num_parameters": sum(parameter.numel() for parameter in module.parameters()),
        "kind_shapes": kind_shapes,
    }


def _shapes_seen(
    config: Teacher, policy: Policy, *, num_classes: int | None
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, Mapping[str, tuple[int, ...]]]]:
    """Of the outputs at the teacher's own size, and by kind at that of each kind.

    Raises:
        ModelError: the model does not take one of the sizes, or lacks an output.
    """
    return (
        teacher_shapes(config, config.outputs.names(), num_classes=num_classes, size_px=config.input.size_px),
        {
            kind: teacher_shapes(
                config,
                config.outputs.names(),
                num_classes=num_classes,
                size_px=config.input.of_kind(policy, kind).size_px,
            )
            for kind in policy.kinds
        },
    )


def teacher_shapes(
    config: Teacher, names: Sequence[str], *, num_classes: int | None, size_px: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs `names` of a view of `size_px`, pooled where that is asked.

    Raises:
        ModelError: the model does not take this size, or lacks an output.
        RecipeError: the grid cannot be pooled as asked.
    """
    from kd_ray.models import output_shapes

    assert config.network is not None, "of an imported teacher the cache tells the shapes"
    shapes = output_shapes(
        config.network,
        size_px=size_px,
        num_classes=num_classes,
        names=names,
        spatial_stage=config.outputs.spatial_stage,
        summary_from=config.outputs.summary_from,
        spatial_from=config.outputs.spatial_from,
    )
    try:
        return config.outputs.reduced(shapes)
    except ValueError as error:
        raise RecipeError(
            f"outputs.spatial.pool: {error} that {config.model.title} gives of {size_px[0]}x{size_px[1]} px. Take a "
            "number that divides both sides, another input.size_px, or remove it."
        ) from error


def _weights_key(run: Run, corpus: PackedCorpus, config: Teacher) -> str:
    """Which weights: of a file, its version; of the model's own, their name; of a finetuning, all that decides it.

    Where the recipe names the model's code, that too.
    """
    given = signature(weights_file(config.weights)) if config.weights else config.model.model_dump(mode="json")
    code = _code(config)
    if config.finetune is None:
        return key_of(weights=given, **code)
    return key_of(
        weights=given,
        **code,
        corpus=corpus.annotated_id,
        samples=corpus.num_samples("train"),
        labels=run.recipe.labels.model_dump(mode="json"),
        policy=run.recipe.views.policy.model_dump(mode="json"),
        view_seed=run.recipe.views.seed,
        teacher=config.model_dump(mode="json", include={"model", "input"}),
        finetune=config.finetune.model_dump(mode="json", exclude={"resources"}),
    )


def _code(config: Teacher) -> dict[str, str]:
    if not config.model.is_described_by_files:
        return {}
    from kd_ray.models.code import code_digest

    digest = code_digest(config.model)
    assert digest is not None
    return {"code": digest}


def _record_key(run: Run, corpus: PackedCorpus, config: Teacher, num_classes: int | None) -> str:
    """Everything that a look at the weights depends on."""
    policy = run.recipe.views.policy
    looked_at = config.model_dump(mode="json", include={"model", "input", "outputs"})
    sizes = {kind: config.input.of_kind(policy, kind).size_px for kind in policy.kinds}
    return key_of(
        teacher=looked_at,
        num_classes=num_classes,
        weights=_weights_key(run, corpus, config),
        **({"kinds": sizes} if sizes else {}),
    )


def _finetune_job(
    run: Run, corpus: PackedCorpus, name: str, config: Teacher, finetune: Finetune, *, key: str
) -> TrainJob:
    """Supervised training on the allowed labels; a view of its own for every sample and epoch."""
    assert not isinstance(config.model, ExportedModel | ImportedModel), "the recipe refuses to finetune those"
    loss = CrossEntropyLoss(kind="cross_entropy", label_smoothing=finetune.label_smoothing)
    return TrainJob(
        name=name,
        run_uri=join(run.recipe.out, "teachers", f"{name}-{key[:12]}"),
        corpus=corpus.address,
        labels=run.recipe.labels,
        student=Student(name=name, model=config.model, weights=config.weights, input=config.input),
        num_classes=len(corpus.classes),
        losses=WeightedLosses(losses=(loss,), teachers=(None,)),
        target_shapes=({},) * len(run.recipe.views.policy.kind_names),
        stream=StreamSettings(
            kinds=stream_kinds(run.recipe.views, config.input, fresh=True),
            view_seed=run.recipe.views.seed,
            repeats=run.recipe.views.policy.repeats,
            global_batch_size=finetune.global_batch_size,
            num_threads=1,
        ),
        order=labelled_order(corpus, run.recipe.labels, seed=finetune.seed, num_lanes=1, window=None),
        source=None,
        settings=FitSettings(
            num_steps=finetune.steps,
            optimizer=finetune.optimizer,
            schedule=finetune.schedule,
            gradient_clip=None,
            log_every_steps=20,
            evaluate_every_steps=NEVER,
            checkpoint_every_steps=NEVER,
        ),
        seed=finetune.seed,
    )


def _describe(teacher: KnownTeacher) -> str:
    if teacher.config.network is None:
        return f"{teacher.name}: {teacher.config.model.title}, features {teacher.weights_fingerprint[:12]}"
    millions = teacher.num_parameters / 1e6
    weights = teacher.weights_fingerprint[:12]
    return f"{teacher.name}: {teacher.config.model.title}, {millions:.2f} M parameters, weights {weights}"

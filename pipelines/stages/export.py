"""export: the student as safetensors that timm loads, as ONNX and torch.export, each checked against PyTorch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kd_ray.config.losses import OnFeatures
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_yaml
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import join, open_storage
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.units import human_bytes
from kd_ray.training.job import HEADS_FILE, WEIGHTS_FILE
from pipelines.context import Record, Run, key_of
from pipelines.stages.evaluate import Evaluation
from pipelines.stages.plan import CachePlan
from pipelines.stages.train import TrainedStudent

if TYPE_CHECKING:
    from kd_ray.students import CardFacts, KeptHeads

SOURCE_FILE = "source.json"


def export_model(
    run: Run,
    corpus: PackedCorpus,
    teachers: Mapping[str, KnownTeacher],
    plan: CachePlan,
    student: TrainedStudent,
    evaluation: Evaluation,
) -> Record:
    """What was written and measured, with the folder's `uri`."""
    key = key_of(
        run=student.job.run_uri.rsplit("/", 1)[-1],
        export=run.recipe.export.model_dump(mode="json"),
        scores=evaluation.students[student.job.name],
    )
    record = _current(run, student, key)
    if record is not None:
        run.committed_outcome("export", key=key, detail=_describe(record))
        return record

    def do(_meter: Meter) -> tuple[Record, int, str]:
        facts = _facts(run.recipe, corpus, teachers, plan, student, evaluation)
        record = _export(run.recipe, corpus, student, facts)
        open_storage(record["uri"]).write(SOURCE_FILE, json.dumps({"key": key, "record": record}, indent=1).encode())
        return record, 0, _describe(record)

    return run.work("export", do, key=key)


def _current(run: Run, student: TrainedStudent, key: str) -> Record | None:
    """What is known of the export folder, if it holds this very run's student; the last export there is what counts."""
    try:
        source = json.loads(open_storage(_export_uri(run.recipe, student)).read(SOURCE_FILE))
    except FileNotFoundError:
        return None
    record: Record = source["record"]
    return record if source["key"] == key else None


def _export_uri(recipe: Recipe, student: TrainedStudent) -> str:
    return join(recipe.out, "export", student.job.name)


def _facts(
    recipe: Recipe,
    corpus: PackedCorpus,
    teachers: Mapping[str, KnownTeacher],
    plan: CachePlan,
    student: TrainedStudent,
    evaluation: Evaluation,
) -> "CardFacts":
    from kd_ray.students import CardFacts

    followed = {name: teachers[name] for name in student.job.losses.teacher_names}
    return CardFacts(
        name=student.job.name,
        teachers={
            name: f"{each.config.model.title}, weights {each.weights_fingerprint[:16]}"
            for name, each in followed.items()
        },
        corpus_id=corpus.corpus_id,
        targets={
            f"{name}{f' on {kind}' if kind else ''}": of_kind[name].job.target_set.fingerprint
            for kind, of_kind in plan.training.items()
            for name in followed
        },
        policy=recipe.views.policy.name,
        metrics=evaluation.students[student.job.name],
        recipe_yaml=recipe_yaml(recipe),
    )


def _export(recipe: Recipe, corpus: PackedCorpus, student: TrainedStudent, facts: "CardFacts") -> Record:
    from kd_ray.models import build_model, load_weights, without_pretrained
    from kd_ray.students import Formats, export_student, without_classifier

    job = student.job
    module = build_model(without_pretrained(job.student.model), num_classes=job.num_classes)
    load_weights(module, join(job.run_uri, WEIGHTS_FILE))
    heads = _kept_heads(student) if recipe.export.heads else None
    if not job.losses.train_logits:  # as it was initialised: nobody should take it for one that knows the classes
        module = without_classifier(module, job.student)
    uri = _export_uri(recipe, student)
    has_classes = job.losses.train_logits and job.num_classes == len(corpus.classes)
    open_storage(uri).remove("")  # no file of an earlier student may stand beside the new ones
    measured = export_student(
        module.eval(),
        job.student,
        num_classes=job.num_classes,
        classes=corpus.classes if has_classes else (),
        storage=open_storage(uri),
        formats=Formats(onnx=recipe.export.onnx, torch_export=recipe.export.torch_export),
        heads=heads,
        facts=facts,
    )
    return {"uri": uri, **measured}


def _kept_heads(student: TrainedStudent) -> "KeptHeads":
    """The student with the heads that it was trained with.

    Raises:
        RecipeError: they were not kept.
    """
    from kd_ray.models import load_weights, without_pretrained
    from kd_ray.students import KeptHeads
    from kd_ray.training.job import build

    job = student.job
    bare = job.student.model_copy(update={"model": without_pretrained(job.student.model), "weights": None})
    model = build(replace(job, student=bare))
    if not open_storage(job.run_uri).exists(HEADS_FILE):
        raise RecipeError(
            f"export.heads: {job.run_uri} is of a version that did not keep its heads. Train it again (another "
            "train.seed makes it another run), or remove export.heads."
        )
    load_weights(model.backbone, join(job.run_uri, WEIGHTS_FILE))
    load_weights(model.heads, join(job.run_uri, HEADS_FILE))
    described = {
        str(index): {
            "teacher": job.losses.teachers[index],
            "output": loss.output,
            "student_stage": loss.student_stage,
            "shape": list(job.target_shapes[0][index]),
            "standardize": loss.standardize,
            "head": None if loss.head is None else loss.head.model_dump(mode="json"),
        }
        for index, loss in enumerate(job.losses.losses)
        if isinstance(loss, OnFeatures)
    }
    return KeptHeads(student=model.eval(), described=described)


def _describe(record: Record) -> str:
    measured = {"ONNX": "onnx_max_abs_difference", "torch.export": "torch_export_max_abs_difference"}
    agree = [f"{name} agrees to {record[key]:.1e}" for name, key in measured.items() if record.get(key) is not None]
    without = [] if record["num_classes"] else ["without a classifier: no loss was on logits"]
    return f"{record['uri']} ({', '.join([human_bytes(record['bytes']), *without, *agree])})"

"""export: the student as safetensors that timm loads, and as ONNX, checked against PyTorch."""

import json

from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.storage import join, open_storage
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.units import human_bytes
from kd_ray.training.job import WEIGHTS_FILE
from pipelines.context import Record, Run, key_of
from pipelines.stages.train import TrainedStudent

SOURCE_FILE = "source.json"


def export_model(run: Run, corpus: PackedCorpus, student: TrainedStudent) -> Record:
    """What was written and measured, with the folder's `uri`."""
    key = key_of(run=student.job.run_uri.rsplit("/", 1)[-1], export=run.recipe.export.model_dump(mode="json"))
    record = _current(run, student, key)
    if record is not None:
        run.committed_outcome("export", key=key, detail=_describe(record))
        return record

    def do(_meter: Meter) -> tuple[Record, int, str]:
        record = _export(run.recipe, corpus, student)
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


def _export(recipe: Recipe, corpus: PackedCorpus, student: TrainedStudent) -> Record:
    from kd_ray.models import build_model, load_weights, without_pretrained
    from kd_ray.students.export import export_student

    job = student.job
    module = build_model(without_pretrained(job.student.model), num_classes=job.num_classes)
    load_weights(module, join(job.run_uri, WEIGHTS_FILE))
    uri = _export_uri(recipe, student)
    open_storage(uri).remove("")  # no file of an earlier student may stand beside the new ones
    measured = export_student(
        module.eval(),
        job.student,
        num_classes=job.num_classes,
        classes=corpus.classes if job.num_classes == len(corpus.classes) else (),
        storage=open_storage(uri),
        onnx=recipe.export.onnx,
    )
    return {"uri": uri, **measured}


def _describe(record: Record) -> str:
    onnx = ""
    if record["onnx_bytes"] is not None:
        onnx = f", ONNX agrees to {record['onnx_max_abs_difference']:.1e}"
    return f"{record['uri']} ({human_bytes(record['bytes'])}{onnx})"

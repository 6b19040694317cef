"""export: the student as safetensors that timm loads, and as ONNX, checked against PyTorch."""

from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.storage import join, open_storage
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.units import human_bytes
from kd_ray.training.job import WEIGHTS_FILE
from pipelines.context import Record, Run, key_of
from pipelines.stages.train import TrainedStudent


def export_model(run: Run, corpus: PackedCorpus, student: TrainedStudent) -> Record:
    """What was written and measured, with the folder's `uri`."""
    key = key_of(run=student.job.run_uri.rsplit("/", 1)[-1], export=run.recipe.export.model_dump(mode="json"))
    record = run.record("exported", key)
    if record is not None:
        run.committed_outcome("export", key=key, detail=_describe(record))
        return record

    def do(_meter: Meter) -> tuple[Record, int, str]:
        record = _export(run.recipe, corpus, student)
        run.write_record("exported", key, record)
        return record, 0, _describe(record)

    return run.work("export", do, key=key)


def _export(recipe: Recipe, corpus: PackedCorpus, student: TrainedStudent) -> Record:
    from kd_ray.models import build_model, load_weights
    from kd_ray.students.export import export_student

    job = student.job
    module = build_model(job.student.model, num_classes=job.num_classes)
    load_weights(module, join(job.run_uri, WEIGHTS_FILE))
    uri = join(recipe.out, "export", job.student.name)
    measured = export_student(
        module.eval(),
        job.student,
        num_classes=job.num_classes,
        classes=corpus.classes,
        storage=open_storage(uri),
        onnx=recipe.export.onnx,
    )
    return {"uri": uri, **measured}


def _describe(record: Record) -> str:
    onnx = ""
    if record["onnx_bytes"] is not None:
        onnx = f", ONNX agrees to {record['onnx_max_abs_difference']:.1e}"
    return f"{record['uri']} ({human_bytes(record['bytes'])}{onnx})"

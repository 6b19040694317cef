"""The whole job, stage after stage; each finds what is committed and does only the rest."""

from kd_ray.config.stages import STAGES
from pipelines.context import Run
from pipelines.stages.evaluate import evaluate_models
from pipelines.stages.export import export_model
from pipelines.stages.extract import extract_targets
from pipelines.stages.finetune import prepare_teachers
from pipelines.stages.many import check_students, student_lines
from pipelines.stages.pack import pack_corpus
from pipelines.stages.partial import policy_lines
from pipelines.stages.plan import plan_cache
from pipelines.stages.report import Report, write_report
from pipelines.stages.train import train_students


def distill(run: Run) -> Report | None:
    """All stages up to the last one asked for; the report where that was asked for too."""
    last = max(STAGES.index(stage) for stage in run.stages)

    corpus = pack_corpus(run)  # images -> shards of Parquet, in a fixed random order
    if last < STAGES.index("finetune"):
        return None
    teachers = prepare_teachers(run, corpus)  # weights of every teacher, trained here where the recipe asks
    if last < STAGES.index("plan"):
        return None
    plan = plan_cache(run, corpus, teachers)  # which units are missing; reads commits, computes nothing
    for line in (*policy_lines(run, plan), *student_lines(run.recipe)):
        run.console.print(line, highlight=False, soft_wrap=True)
    if last < STAGES.index("extract"):
        return None
    if "train" in run.stages and any(each.missing for each in plan.all):
        check_students(run.recipe, corpus, teachers)  # a mistake there must not cost a forward pass
    extract_targets(run, plan)  # the only stage that runs a teacher
    if last < STAGES.index("train"):
        return None
    students = train_students(run, corpus, teachers, plan)  # several side by side where there is room
    if last < STAGES.index("evaluate"):
        return None
    evaluation = evaluate_models(run, corpus, students, plan)  # teachers are scored from the cache
    if last < STAGES.index("export"):
        return None
    exported = [export_model(run, corpus, teachers, plan, each, evaluation) for each in students if each.with_teacher]
    if last < STAGES.index("report"):
        return None
    return write_report(run, corpus, teachers, plan, students, evaluation, exported)

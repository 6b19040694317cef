"""evaluate: students on the held-out split; the teachers' scores come from the cache, without a forward pass."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import TargetPlan
from kd_ray.storage import join
from kd_ray.telemetry.progress import Meter
from kd_ray.training.job import WEIGHTS_FILE
from pipelines.context import Run, key_of, show_on
from pipelines.stages.plan import CachePlan
from pipelines.stages.train import TrainedStudent

if TYPE_CHECKING:
    from kd_ray.evaluate.cached import CachedOutput, CachedSummaries
    from kd_ray.evaluate.evaluation import CachedLogits

Scores = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores by name of the model."""

    teachers: Mapping[str, Scores]
    students: Mapping[str, Scores]
    num_rounded: int = 0  # of the compared views, how many the teachers saw through another decoder


def evaluate_models(run: Run, corpus: PackedCorpus, students: list[TrainedStudent], plan: CachePlan) -> Evaluation:
    """Top-1, calibration and agreement of every model of the run; kNN and a linear probe without a classifier."""
    on_features = any(not each.job.losses.train_logits for each in students)
    key = key_of(
        runs=[each.job.run_uri.rsplit("/", 1)[-1] for each in students],
        policy=run.recipe.evaluate.policy.model_dump(mode="json"),
        samples=corpus.num_samples("test"),
        annotations=corpus.annotated_id,
        teachers=[each.job.target_set.fingerprint for each in plan.evaluation.values()],
        # records without a trained classifier are older than these scores
        **({"reference_images": run.recipe.evaluate.num_reference_images} if on_features else {}),
    )
    record = run.record("evaluation", key)
    if record is not None:
        found = Evaluation(**record)
        run.committed_outcome("evaluate", key=key, detail=_describe(found))
        return found

    def do(meter: Meter) -> tuple[Evaluation, int, str]:
        resources = run.recipe.evaluate.resources
        run.session.start_for("evaluate", num_cpus=resources.num_cpus, num_gpus=resources.num_gpus)
        from kd_ray.engine.evaluate import evaluate_on_worker
        from kd_ray.evaluate.evaluation import EvaluationJob

        cached = {name: _cached_logits(each) for name, each in plan.evaluation.items() if "logits" in each.job.outputs}
        jobs = {
            each.job.name: EvaluationJob(
                student=each.job.student,
                num_classes=each.job.num_classes,
                weights_uri=join(each.job.run_uri, WEIGHTS_FILE),
                corpus=corpus.address,
                policy=run.recipe.evaluate.policy,
                batch_size=run.recipe.evaluate.batch_size_per_worker,
                classifier_is_trained=each.job.losses.train_logits,
                teachers=cached,
                labels=run.recipe.labels,
                num_reference_images=run.recipe.evaluate.num_reference_images,
            )
            for each in students
        }
        teachers, scores = evaluate_on_worker(
            jobs,
            cached,
            _cached_summaries(run.recipe, plan) if on_features else {},
            corpus=corpus.address,
            num_classes=len(corpus.classes),
            resources=run.recipe.evaluate.resources,
            on_progress=show_on(meter),
        )
        evaluation = Evaluation(
            teachers=teachers,
            students={name: each.scores for name, each in scores.items()},
            num_rounded=max((each.num_rounded for each in scores.values()), default=0),  # the same views for each
        )
        run.write_record("evaluation", key, asdict(evaluation))
        return evaluation, corpus.num_samples("test") * len(jobs), _describe(evaluation)

    return run.work("evaluate", do, key=key)


def _cached_logits(plan: TargetPlan) -> "CachedLogits":
    from kd_ray.evaluate.evaluation import CachedLogits

    return CachedLogits(
        cache_uri=plan.job.cache_uri,
        target_set=plan.job.target_set,
        output=plan.job.outputs["logits"],
        view_set=plan.job.view_set,
        units=plan.view_set.units,
        policy=plan.job.policy,
        verify_one_in=plan.job.verify_one_in,
    )


def _cached_summaries(recipe: Recipe, plan: CachePlan) -> "dict[str, CachedSummaries]":
    """Of the teachers whose summaries are cached whole, of both splits; of the first kind of views."""
    from kd_ray.evaluate.cached import CachedSummaries

    if not plan.has_whole_training(recipe):
        return {}
    training = plan.training[recipe.views.policy.kind_names[0]]
    return {
        name: CachedSummaries(train=_cached_summary(training[name]), test=_cached_summary(each))
        for name, each in plan.evaluation.items()
        if "summary" in each.job.outputs
    }


def _cached_summary(plan: TargetPlan) -> "CachedOutput":
    from kd_ray.evaluate.cached import CachedOutput

    return CachedOutput(
        cache_uri=plan.job.cache_uri,
        target_set=plan.job.target_set,
        output=plan.job.outputs["summary"],
        units=plan.view_set.units,
    )


def _describe(evaluation: Evaluation) -> str:
    scores = {**evaluation.teachers, **evaluation.students}
    told = [f"{name} {100 * each['top1']:.2f} %" for name, each in scores.items() if "top1" in each]
    said = f"top-1 {', '.join(told)}" if told else ""
    neighbours = [f"{name} {100 * each['knn_top1']:.2f} %" for name, each in scores.items() if "knn_top1" in each]
    if neighbours:
        said += f"{', ' if said else ''}kNN {', '.join(neighbours)}"
    said = said or "no labels to score with"
    if evaluation.num_rounded:
        said += (
            f". WARNING: of the checked views {evaluation.num_rounded:,} differ from what the teachers saw by "
            "rounding: the images were decoded by another library here. Install what the view set records"
        )
    return said

"""Evaluation of finished students on one worker."""

from collections.abc import Callable, Mapping
from functools import partial

from kd_ray.config.resources import Resources
from kd_ray.corpus.packed import CorpusAddress
from kd_ray.engine.board import Standing
from kd_ray.engine.tasks import Worker, run_task
from kd_ray.evaluate.cached import CachedSummaries
from kd_ray.evaluate.evaluation import CachedLogits, EvaluationJob, StudentScores, evaluate_student, score

Scores = dict[str, float]


def evaluate_on_worker(
    jobs: Mapping[str, EvaluationJob],
    teachers: Mapping[str, CachedLogits],
    summaries: Mapping[str, CachedSummaries],
    *,
    corpus: CorpusAddress,
    num_classes: int,
    resources: Resources,
    on_progress: Callable[[Standing], None],
) -> tuple[dict[str, Scores], dict[str, StudentScores]]:
    """Scores of the students, and of the teachers: from cached logits where their classes are the corpus's, and from
    cached `summaries`.
    """
    task = partial(_evaluate, dict(jobs), dict(teachers), dict(summaries), corpus, num_classes)
    return run_task(task, resources=resources, on_progress=on_progress)


def _evaluate(
    jobs: dict[str, EvaluationJob],
    teachers: dict[str, CachedLogits],
    summaries: dict[str, CachedSummaries],
    corpus: CorpusAddress,
    num_classes: int,
    worker: Worker,
) -> tuple[dict[str, Scores], dict[str, StudentScores]]:
    cached = {name: each.read(corpus) for name, each in teachers.items()}
    teacher_scores = {name: score(each) for name, each in cached.items() if each.logits_NK.shape[1] == num_classes}
    packed = corpus.open()
    num_images = packed.num_samples("test")
    some_job = next(iter(jobs.values()))
    for name, each in summaries.items():
        found = each.score(
            corpus,
            usable_labels=packed.labelled_ids("train", some_job.labels),
            num_reference_images=some_job.num_reference_images,
        )
        teacher_scores[name] = {**teacher_scores.get(name, {}), **found}
    scores = {}
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        worker.write_standing(Standing(done, len(jobs) * num_images, name))

    for name, job in jobs.items():
        scores[name] = evaluate_student(job, device=worker.device, on_batch=count)
    return teacher_scores, scores

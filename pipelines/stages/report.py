"""report: what a person looks at (the table, report.html, views.png) and what a program reads (metrics.json)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_yaml, versions
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.evaluate.comparison import HEADINGS, ComparedStudent, comparison_rows, comparison_svg
from kd_ray.evaluate.report import ReportContent, render_report
from kd_ray.evaluate.sheet_png import sheet_png
from kd_ray.evaluate.sheet_samples import packed_group
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import join
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.units import human_bytes, human_seconds
from pipelines.context import Outcome, Record, Run, key_of
from pipelines.planning.actual import plan_and_actual
from pipelines.show_views import sheet_of, usual_num_draws
from pipelines.stages.compare import compare_students, write_comparison
from pipelines.stages.evaluate import Evaluation, Scores
from pipelines.stages.extract import stored_bytes
from pipelines.stages.partial import describe_missing, missing_counts
from pipelines.stages.plan import CachePlan
from pipelines.stages.train import TrainedStudent

SHEET_SAMPLES = 4  # the page holds them: 4 views for a teacher at 518 px and a student at 224 are some 9 MB
PAGE = "current"  # there is one page, of the last recipe that wrote it
RESULT_HEADINGS = ("model", "parameters", "top-1", "agrees with teacher", "calibration error")
FEATURE_HEADINGS = ("kNN", "linear probe")  # where a student has no classifier
STAGE_HEADINGS = ("stage", "this run", "work took", "images", "images/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The numbers of a run, and where the page is."""

    metrics: Mapping[str, float | int | str]
    html_uri: str


def write_report(
    run: Run,
    corpus: PackedCorpus,
    teachers: Mapping[str, KnownTeacher],
    plan: CachePlan,
    students: list[TrainedStudent],
    evaluation: Evaluation,
    exported: Sequence[Record],
) -> Report:
    """Write what is not written yet; metrics.json is written anew each time, since it counts what this run did."""
    results = _results(teachers, students, evaluation)
    compared = compare_students(run, students, evaluation)
    html_uri = join(run.storage.uri, "report.html")
    key = key_of(results=results, recipe=run.recipe.model_dump(mode="json"))
    if run.storage.exists("report.html") and run.record("page", PAGE) == {"key": key}:
        run.committed_outcome("report", key=key, detail=html_uri)
    else:

        def do(_meter: Meter) -> tuple[None, int, str]:
            _write_page(run, corpus, plan, students, evaluation, results, compared)
            run.write_record("page", PAGE, {"key": key})
            return None, 0, html_uri

        run.work("report", do, key=key)
    metrics = _metrics(run, teachers, plan, students, evaluation, exported)
    run.storage.write("metrics.json", json.dumps(metrics, indent=1).encode())
    run.console.print(_table("results", _result_headings(evaluation), results))
    if compared:
        write_comparison(run, compared)
        run.console.print(_table("students", HEADINGS, comparison_rows(compared)))
    run.console.print(_table("stages", STAGE_HEADINGS, _stage_rows(run.outcomes)))
    run.console.print(
        f"cache {human_bytes(stored_bytes(plan))}, teacher forwards in this run: "
        f"{run.counts['extract/teacher_forwards']:,}. Look at {html_uri}",
        highlight=False,
    )
    return Report(metrics=metrics, html_uri=html_uri)


def _write_page(
    run: Run,
    corpus: PackedCorpus,
    plan: CachePlan,
    students: list[TrainedStudent],
    evaluation: Evaluation,
    results: list[tuple[str, ...]],
    compared: Sequence[ComparedStudent],
) -> None:
    recipe = run.recipe
    sheet = _sheet(recipe, corpus)
    run.storage.write("views.png", sheet)
    page = render_report(
        ReportContent(
            title=f"kd_ray: {recipe.name}",
            summary=_summary(run, corpus, students, evaluation),
            results=(_result_headings(evaluation), results),
            comparison=(HEADINGS, comparison_rows(compared)) if compared else None,
            comparison_svg=comparison_svg(compared),
            stages=(STAGE_HEADINGS, _stage_rows(run.outcomes)),
            facts=_facts(run, corpus, plan),
            histories={each.job.name: each.record["history"] for each in students},
            levels={name: scores["top1"] for name, scores in evaluation.teachers.items() if "top1" in scores},
            contact_sheet_png=sheet,
            contact_sheet_caption=(
                f"Each row is one training image: whole, with the boxes of its views, then views of it, of which "
                f"{_stored_views(recipe)} are stored, at the pixels that each teacher and the student get."
            ),
            recipe_yaml=recipe_yaml(recipe),
        )
    )
    run.storage.write("report.html", page.encode())


def _stored_views(recipe: Recipe) -> str:
    views = recipe.views
    counts = [f"{views.num_views(kind)}{f' {kind}' if kind else ''}" for kind in views.policy.kind_names]
    return ", ".join(counts)


def _sheet(recipe: Recipe, corpus: PackedCorpus) -> bytes:
    sheet = sheet_of(
        recipe,
        packed_group(corpus, with_masks=recipe.views.policy.reads_masks),
        num_samples=SHEET_SAMPLES,
        num_draws=usual_num_draws(recipe),
        report=lambda _done: None,
    )
    return sheet_png(sheet)


def _summary(run: Run, corpus: PackedCorpus, students: list[TrainedStudent], evaluation: Evaluation) -> str:
    labelled = len(corpus.labelled_ids("train", run.recipe.labels))
    total = corpus.num_samples("train")
    told = f"{total:,} training images, {labelled:,} of them with a label that was used. "
    for each in students:
        how = "with its teacher" if each.with_teacher else "on the labels alone"
        scores = evaluation.students[each.job.name]
        if "top1" in scores:
            result = f"{_percent(scores['top1'])} top-1"
        elif "knn_top1" in scores:
            result = f"no classifier, {_percent(scores['knn_top1'])} by kNN on its features"
        else:
            result = "not scored, there are no labels"
        told += f"{each.job.name}, trained {how}: {result}. "
        if each.record.get("snapshot"):
            told += f"{describe_missing(each.record['snapshot'])}. "
    return told


def _results(
    teachers: Mapping[str, KnownTeacher], students: list[TrainedStudent], evaluation: Evaluation
) -> list[tuple[str, ...]]:
    counts = {name: teachers[name].num_parameters for name in evaluation.teachers}
    counts |= {each.job.name: each.record["num_parameters"] for each in students}
    scores = {name: {**evaluation.teachers, **evaluation.students}[name] for name in counts}
    rows = [_result_row(name, count, scores[name]) for name, count in counts.items()]
    if not _scores_features(evaluation):
        return rows
    return [(*row, *_feature_cells(scores[name])) for name, row in zip(counts, rows, strict=True)]


def _scores_features(evaluation: Evaluation) -> bool:
    return any("knn_top1" in scores for scores in {**evaluation.teachers, **evaluation.students}.values())


def _feature_cells(scores: Scores) -> tuple[str, ...]:
    return tuple(_percent(scores[key]) if key in scores else "-" for key in ("knn_top1", "probe_top1"))


def _result_headings(evaluation: Evaluation) -> tuple[str, ...]:
    return (*RESULT_HEADINGS, *(FEATURE_HEADINGS if _scores_features(evaluation) else ()))


def _result_row(name: str, num_parameters: int, scores: Scores) -> tuple[str, ...]:
    agreements = [_percent(value) for key, value in scores.items() if key.startswith("agreement/")]
    return (
        name,
        f"{num_parameters:,}",
        _percent(scores["top1"]) if "top1" in scores else "-",
        ", ".join(agreements),
        f"{scores['calibration_error']:.3f}" if "calibration_error" in scores else "",
    )


def _stage_rows(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    return [
        (
            each.stage,
            each.status,
            human_seconds(each.seconds) if each.seconds else "",
            f"{each.images:,}" if each.images else "",
            f"{each.images_per_s:,.0f}" if each.images_per_s else "",
        )
        for each in outcomes
    ]


def _facts(run: Run, corpus: PackedCorpus, plan: CachePlan) -> dict[str, str]:
    return {
        "corpus": f"{corpus.corpus_id[:16]} at {corpus.uri}",
        "cache": f"{human_bytes(stored_bytes(plan))} at {run.recipe.cache.uri}",
        **{
            f"view set{f' {kind}' if kind else ''}": each.spec.fingerprint[:16]
            for kind, each in plan.training_views.items()
        },
        **{
            f"target set of {name}{f' on {kind}' if kind else ''}": each.job.target_set.fingerprint[:16]
            for kind, of_kind in plan.training.items()
            for name, each in of_kind.items()
        },
        **versions(),
    }


def _metrics(
    run: Run,
    teachers: Mapping[str, KnownTeacher],
    plan: CachePlan,
    students: list[TrainedStudent],
    evaluation: Evaluation,
    exported: Sequence[Record],
) -> dict[str, float | int | str]:
    metrics: dict[str, float | int | str] = {"recipe": run.recipe.name, **run.counts}
    metrics["cache/bytes"] = stored_bytes(plan)
    metrics |= plan_and_actual(run, plan, student_epoch_seconds=_epoch_seconds(run, plan, students))
    for each in run.outcomes:
        metrics[f"{each.stage}/status"] = each.status
        metrics[f"{each.stage}/seconds"] = round(each.seconds, 3)
        if each.images_per_s is not None:
            metrics[f"{each.stage}/images_per_s"] = round(each.images_per_s, 2)
    for name, scores in {**evaluation.teachers, **evaluation.students}.items():
        metrics |= {f"{name}/{key}": value for key, value in scores.items()}
    metrics |= {f"{name}/num_parameters": teacher.num_parameters for name, teacher in teachers.items()}
    for student in students:
        metrics[f"{student.job.name}/num_parameters"] = int(student.record["num_parameters"])
        metrics[f"{student.job.name}/num_rounded_views"] = int(student.record.get("num_rounded_views", 0))
        for key, count in missing_counts(student.record).items():
            metrics[f"{student.job.name}/{key}"] = count
        metrics[f"{student.job.name}/data_wait"] = round(student.record["data_wait_s"] / student.record["seconds"], 4)
    metrics["export/uri"] = str(exported[0]["uri"])
    return metrics


def _epoch_seconds(run: Run, plan: CachePlan, students: list[TrainedStudent]) -> float | None:
    """Of the first student that follows a teacher: its seconds over its passes over the training samples."""
    first = next((each for each in students if each.with_teacher), None)
    if first is None:
        return None
    num_samples = sum(next(iter(plan.training_views.values())).rows_of.values())
    num_images = run.recipe.train.num_steps(num_samples) * run.recipe.train.global_batch_size
    return float(first.record["seconds"]) * num_samples / num_images


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _table(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 or heading == "this run" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table

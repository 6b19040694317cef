"""python -m tests.experiments.few_labels: the quickstart with three seeds and several numbers of labels.

Runs conf/quickstart.yaml once for each seed and number (about two minutes each on two cores), and writes the table of
docs/results.md from the metrics.json of the runs. A run that is finished is not run again.
"""

import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
LABELS_PER_CLASS = (6, 15)
MODELS = ("teacher", "student", "student-without-teacher")
FIRST_RENDERER = [  # of which docs/results.md has the table
    "views.policy.renderer_version=1",
    "evaluate.policy={name: evaluation, operations: [{kind: center_crop}], renderer_version: 1}",
]
BEGIN, END = "<!-- few_labels: begin -->", "<!-- few_labels: end -->"


def main() -> None:
    """Run what is not finished, then write the table."""
    rows = [_row(count, [_metrics(count, seed) for seed in SEEDS]) for count in LABELS_PER_CLASS]
    head = ["labels", "teacher", "student, distilled", "student, labels alone", "distilled - alone, by seed"]
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    machine = f"{platform.machine()}, 2 cores, Python {platform.python_version()}"
    table = "\n".join(
        [BEGIN, "", *lines, "", f"Written by `python -m tests.experiments.few_labels` ({machine}).", "", END]
    )
    path = ROOT / "docs" / "results.md"
    text = path.read_text()
    start, stop = text.index(BEGIN), text.index(END) + len(END)
    path.write_text(text[:start] + table + text[stop:])
    print(table)


def _metrics(count: int, seed: int) -> dict[str, Any]:
    out = ROOT / "out" / "few_labels" / f"{10 * count}-labels-seed-{seed}"
    command = [sys.executable, "-m", "kd_ray.run", "conf/quickstart.yaml", f"out={out}", f"labels.count={count}"]
    command += FIRST_RENDERER
    command += [f"train.seed={seed}", f"teacher.finetune.seed={seed}", "train.evaluate_every_steps=584"]
    if not (out / "metrics.json").exists():
        subprocess.run(command, cwd=ROOT, check=True)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def _row(count: int, runs: list[dict[str, Any]]) -> list[str]:
    cells = []
    for model in MODELS:
        scores = [100 * run[f"{model}/top1"] for run in runs]
        cells.append(f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f} %")
    gains = [100 * (run["student/top1"] - run["student-without-teacher/top1"]) for run in runs]
    return [str(10 * count), *cells, ", ".join(f"{gain:+.2f}" for gain in gains)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

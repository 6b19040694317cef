"""How near a timed plan comes: `kd-ray plan`'s seconds of extraction against those of extracting, in turns.

scikit-learn's digits at 32 px, a ResNet-20 with random weights, in this process and without Ray: the plan reckons with
the work on units, and that is what is timed. Each round times the recipe anew and extracts into a cache of its own.
"""

import argparse
import io
import json
import platform
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kd_ray.config.corpus import DigitsCorpus
from kd_ray.config.load import load_recipe
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.extraction.job import build_extractor
from kd_ray.models import build_model, save_weights
from kd_ray.storage import open_storage
from pipelines.cache.recipe_plan import plan_of
from pipelines.planning.command import make_estimate
from pipelines.planning.estimate import document

ROUNDS, NUM_VIEWS = 3, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the table, write out/bench/plan_accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        recipe = _write_recipe(Path(folder))
        rounds = [_round(recipe, f"{folder}/cache-{number}") for number in range(chosen.rounds)]
    _tell(rounds)


def _round(recipe: Path, cache_uri: str) -> dict[str, float]:
    overrides = [f"cache.uri={cache_uri}", f"out={cache_uri}-out"]
    loaded = load_recipe(recipe, overrides)
    planned = document(make_estimate(loaded, rates=None, calibrate=True, console=Console(file=io.StringIO())))
    _, plan = plan_of(loaded)
    actual_s, num_bytes = 0.0, 0
    for each in plan.all:
        size = each.job.batch_size_on(None)
        extractor = build_extractor(each.job, device="cpu", batch_size=size, num_threads=1)
        reports = [extractor(unit, attempt="bench") for unit in each.missing]
        actual_s += sum(report.seconds for report in reports)
        num_bytes += sum(report.value_bytes for report in reports)
    planned_s = sum(row["hours"] for row in planned["accelerators"]) * 3600
    return {
        "planned_s": planned_s,
        "actual_s": actual_s,
        "actual_over_planned_s": actual_s / planned_s,
        "actual_over_planned_bytes": num_bytes / planned["num_bytes"],
    }


def _write_recipe(folder: Path) -> Path:
    corpus = {"kind": "digits", "uri": f"{folder}/digits", "packed_uri": f"{folder}/corpus"}
    pack(DigitsCorpus.model_validate(corpus))
    torch.manual_seed(0)
    module = build_model(_model(), num_classes=len(open_corpus(corpus["packed_uri"]).classes))
    save_weights(module, open_storage(str(folder)), "teacher.safetensors")
    size = {"size_px": [32, 32]}
    values: dict[str, Any] = {
        "name": "plan_accuracy",
        "out": f"{folder}/out",
        "corpus": corpus,
        "views": {
            "count": NUM_VIEWS,
            "policy": {"name": "bench", "operations": [{"kind": "random_resized_crop", "scale": [0.6, 1.0]}]},
        },
        "teacher": {
            "model": {"kind": "cifar_resnet", "depth": 20},
            "weights": f"{folder}/teacher.safetensors",
            "input": size,
            "outputs": {"spatial": {"codec": "float16"}, "logits": {"codec": "float32"}},
        },
        "cache": {"uri": f"{folder}/cache"},
        "student": {"model": {"kind": "cifar_resnet", "depth": 8}, "input": size},
        "train": {"losses": [{"kind": "kd"}], "epochs": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def _model() -> Any:
    from kd_ray.config.models import CifarResNet

    return CifarResNet(kind="cifar_resnet", depth=20)


def _tell(rounds: list[dict[str, float]]) -> None:
    table = Table(title="seconds of extraction: plan and actual", title_justify="left")
    for heading in ("round", "planned s", "actual s", "actual / planned", "bytes, actual / planned"):
        table.add_column(heading, justify="right")
    for number, each in enumerate(rounds):
        table.add_row(
            str(number),
            f"{each['planned_s']:.2f}",
            f"{each['actual_s']:.2f}",
            f"{each['actual_over_planned_s']:.2f}",
            f"{each['actual_over_planned_bytes']:.4f}",
        )
    Console(width=100).print(table)
    median = statistics.median(each["actual_over_planned_s"] for each in rounds)
    found = {"machine": platform.platform(), "torch": torch.__version__, "median": median, "rounds": rounds}
    path = Path("out/bench/plan_accuracy.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

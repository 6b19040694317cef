"""Extraction against a bare loop of the same teacher on pixels in memory; what a unit and the stage cost beside it.

Images are smooth noise at 256 px stored as JPEG; the teacher is a ResNet-18 of timm with random weights at 224 px (its
cost is the same). CPU time of the whole process, one compute thread and one for rendering, extraction and bare loop in
turns. With --ray also the stage on a Ray cluster of this machine, in each placement: seconds to the first unit.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from kd_ray.config.corpus import Cluster, FolderCorpus
from kd_ray.config.models import Input
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.resources import TeacherResources
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import ColorJitter, Policy, RandomResizedCrop
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.engine.session import RaySession
from kd_ray.extraction.job import build_extractor, load_frozen
from kd_ray.extraction.plan import KnownTeacher, TargetPlan, plan_targets, plan_view_set
from kd_ray.extraction.unit import UnitReport
from kd_ray.models import build_model, output_shapes, save_weights, state_fingerprint
from kd_ray.storage import open_storage

SIZE = Input(size_px=(224, 224))
NUM_CLASSES, BATCH_SIZE, NUM_VIEWS = 10, 16, 2
POLICY = Policy(
    name="bench",
    operations=(
        RandomResizedCrop(kind="random_resized_crop", scale=(0.3, 1.0)),
        ColorJitter(kind="color_jitter", brightness=0.3, contrast=0.3),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured: a corpus and a teacher."""

    corpus: PackedCorpus
    teacher: KnownTeacher
    folder: Path

    def plan(self, cache: str, *, placement: str = "fused") -> TargetPlan:
        """A cache of its own."""
        uri = str(self.folder / cache)
        settings = CacheSettings(uri=uri, unit_row_groups=1, unit_views=NUM_VIEWS)
        views = plan_view_set(
            self.corpus,
            split="train",
            policy=POLICY,
            seed=0,
            num_views=NUM_VIEWS,
            cache=settings,
            widest_bytes_per_view=1,
        )
        resources = TeacherResources.model_validate({"batch_size_per_worker": BATCH_SIZE, "placement": placement})
        teacher = replace(self.teacher, config=self.teacher.config.model_copy(update={"resources": resources}))
        return plan_targets(
            teacher, views, corpus=self.corpus, cache_uri=uri, outputs=("summary", "logits"), verify_one_in=256
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the tables, write out/bench/extraction.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18", help="of timm")
    parser.add_argument("--num-images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="also the stage on Ray, in both placements")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = _bench(Path(folder), model=chosen.model, num_images=chosen.num_images)
        found: dict[str, object] = {"model": chosen.model, **_steady(bench, rounds=chosen.rounds)}
        if chosen.ray:
            found["stage"] = _stage(bench)
    found |= {"machine": platform.platform(), "torch": torch.__version__}
    path = Path("out/bench/extraction.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))


def _steady(bench: Bench, *, rounds: int) -> dict[str, object]:
    plans = [bench.plan(f"cache-{number}") for number in range(rounds + 1)]
    num_views = plans[0].forwards_total
    teacher = load_frozen(plans[0].job, device="cpu", batch_size=BATCH_SIZE)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *SIZE.size_px, 3), dtype=np.uint8)
    bare, whole, idle = list[float](), list[float](), list[float]()
    for plan in plans:
        extract = build_extractor(plan.job, device="cpu", batch_size=BATCH_SIZE, num_threads=1)
        whole.append(_cpu_ms(lambda plan=plan, extract=extract: [extract(u, attempt="bench") for u in plan.missing]))
        bare.append(_cpu_ms(lambda: [teacher(pixels) for _ in range(num_views // BATCH_SIZE)]))
        # all is committed now: what a unit costs beside its teacher, views and writing
        idle.append(_cpu_ms(lambda plan=plan, extract=extract: [extract(u, attempt="idle") for u in plan.missing]))
    bare_ms = [each / (num_views // BATCH_SIZE * BATCH_SIZE) for each in bare[1:]]  # the first round warms up
    whole_ms = [each / num_views for each in whole[1:]]
    idle_ms = [each / len(plans[0].missing) for each in idle[1:]]
    ratio = statistics.median(a / b for a, b in zip(bare_ms, whole_ms, strict=True))
    table = Table(title=f"CPU ms, medians of {rounds} rounds of {num_views} views in {len(plans[0].missing)} units")
    for heading in ("bare loop, a view", "extraction, a view", "bare / extraction", "a committed unit"):
        table.add_column(heading, justify="right")
    median = statistics.median
    table.add_row(f"{median(bare_ms):.2f}", f"{median(whole_ms):.2f}", f"{ratio:.3f}", f"{median(idle_ms):.2f}")
    Console().print(table)
    return {"bare_cpu_ms": bare_ms, "whole_cpu_ms": whole_ms, "ratio": ratio, "committed_unit_cpu_ms": idle_ms}


def _stage(bench: Bench) -> dict[str, object]:
    """The whole stage on Ray: seconds until the first unit is committed, and until all are, for each placement."""
    found: dict[str, object] = {}
    table = Table(title="the stage on Ray (the first row starts the cluster), seconds")
    for heading in ("placement", "to the first unit", "in all"):
        table.add_column(heading, justify="left" if heading == "placement" else "right")
    with (
        tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as temporary,
        RaySession(Cluster(temp_dir=temporary, num_cpus=2)) as session,
    ):
        for placement in ("fused", "split"):
            plan = bench.plan(f"cache-{placement}", placement=placement)
            start_s, times_s = time.perf_counter(), list[float]()

            def on_report(plan: TargetPlan, report: UnitReport, times_s: list[float] = times_s) -> None:
                times_s.append(time.perf_counter())

            session.start()
            from kd_ray.engine.extract import extract_units

            extract_units([plan], can_grow=False, on_report=on_report, tell=print)
            first_s, all_s = times_s[0] - start_s, times_s[-1] - start_s
            found[placement] = {"first_unit_s": first_s, "all_s": all_s}
            table.add_row(placement, f"{first_s:.1f}", f"{all_s:.1f}")
    Console().print(table)
    return found


def _cpu_ms(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return (time.process_time() - start_s) * 1000


def _bench(folder: Path, *, model: str, num_images: int) -> Bench:
    random = np.random.default_rng(0)
    (folder / "images" / "all").mkdir(parents=True)
    for number in range(num_images):
        coarse = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(image).save(folder / "images" / "all" / f"{number}.jpg", quality=90)
    packed = str(folder / "corpus")
    pack(FolderCorpus(kind="folder", uri=str(folder / "images"), packed_uri=packed, row_group_size=16))
    config = Teacher.model_validate(
        {
            "model": {"kind": "timm", "name": model},
            "weights": f"{folder}/teacher.safetensors",
            "input": {"size_px": SIZE.size_px},
            "outputs": {"summary": {"codec": "float16"}, "logits": {"codec": "float16"}},
        }
    )
    module = build_model(config.model, num_classes=NUM_CLASSES)
    save_weights(module, open_storage(str(folder)), "teacher.safetensors")
    shapes = output_shapes(
        config.model,
        size_px=SIZE.size_px,
        num_classes=NUM_CLASSES,
        names=config.outputs.names(),
        spatial_stage=config.outputs.spatial_stage,
    )
    teacher = KnownTeacher(
        name="teacher",
        config=config,
        num_classes=NUM_CLASSES,
        weights_uri=config.weights,
        weights_fingerprint=state_fingerprint(module),
        shapes=shapes,
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
    )
    return Bench(corpus=open_corpus(packed), teacher=teacher, folder=folder)


if __name__ == "__main__":
    main()

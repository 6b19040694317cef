"""What a step costs from the cache and with the teacher in the loop, plain supervised training of the same student = 1.

Images are scikit-learn's digits at 32 px (or a folder: `--images`), the student is a ResNet-8, the teacher a ResNet-20
with random weights (its cost is the same). The three ways take turns in one process, with one compute thread and one
thread for batches.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from kd_ray.config.corpus import DigitsCorpus, FolderCorpus
from kd_ray.config.losses import CrossEntropyLoss, KdLoss, Loss
from kd_ray.config.models import CifarResNet, Input
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.student import Student
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import NAMELESS, ColorJitter, Policy, RandomResizedCrop
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.extraction.job import build_extractor
from kd_ray.extraction.plan import KnownTeacher, plan_targets, plan_view_set
from kd_ray.models import build_model, save_weights, state_fingerprint
from kd_ray.storage import open_storage
from kd_ray.students.student import build_student
from kd_ray.training.batches import Batch, BatchStream, NoTargets, StreamKind, StreamSettings, TargetSource
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.snapshot import full_order
from kd_ray.training.sources import CachedSource, LiveSource

ROUNDS, STEPS, BATCH_SIZE = 5, 40, 64
SIZE = Input(size_px=(32, 32))
POLICY = Policy(
    name="bench",
    operations=(
        RandomResizedCrop(kind="random_resized_crop", scale=(0.6, 1.0)),
        ColorJitter(kind="color_jitter", brightness=0.3, contrast=0.3),
    ),
)
NUM_VIEWS = 4


@dataclass
class Way:
    """One way to train: its batches, its losses, and the times of its rounds per image."""

    name: str
    batches: Iterator[Batch]
    step: Callable[[Batch], None]
    wall_ms: list[float]
    cpu_ms: list[float]

    def round(self) -> None:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            self.step(next(self.batches))
        images = STEPS * BATCH_SIZE
        self.wall_ms.append((time.perf_counter() - wall_s) * 1000 / images)
        self.cpu_ms.append((time.process_time() - cpu_s) * 1000 / images)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the table, write out/bench/cached_epoch.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="a folder with a sub-folder a class; default: scikit-learn's digits")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(Path(folder), chosen.images)
        for way in ways:
            way.round()  # the first is not counted
            way.wall_ms.clear()
            way.cpu_ms.clear()
        for _ in range(ROUNDS):
            for way in ways:
                way.round()
        _tell(ways)
        for way in ways:
            way.batches.close()  # type: ignore[attr-defined]


def _ways(folder: Path, images: str | None) -> list[Way]:
    corpus = _corpus(folder, images)
    teacher = _teacher(folder, corpus)
    views = plan_view_set(
        corpus,
        split="train",
        policy=POLICY,
        seed=0,
        num_views=NUM_VIEWS,
        cache=CacheSettings(uri=str(folder / "cache"), unit_row_groups=2),
        widest_bytes_per_view=1,
    )
    plan = plan_targets(
        teacher, views, corpus=corpus, cache_uri=str(folder / "cache"), outputs=("logits",), verify_one_in=256
    )
    extract = build_extractor(plan.job, device="cpu", batch_size=128, num_threads=1)
    for unit in plan.missing:
        extract(unit, attempt="bench")
    cached = CachedSource(
        cache_uri=plan.job.cache_uri,
        view_set=plan.job.view_set,
        outputs={("teacher", "logits"): (plan.job.target_set, plan.job.outputs["logits"])},
        units=views.units,
        policy=POLICY,
        verify_one_in=256,
    )
    live = LiveSource(
        teachers={"teacher": (teacher.config, teacher.weights_uri, teacher.num_classes)},
        needed=frozenset({("teacher", "logits")}),
        inputs={NAMELESS: {"teacher": SIZE}},
    )
    order = full_order(corpus, views.spans, seed=0, num_lanes=4, window=2)
    supervised, distilled = CrossEntropyLoss(kind="cross_entropy"), KdLoss(kind="kd")

    def way(name: str, source: TargetSource, loss: Loss) -> Way:
        stream = BatchStream(
            StreamSettings(
                kinds=(StreamKind(name=NAMELESS, policy=POLICY, num_crops=1, num_views=NUM_VIEWS, input=SIZE),),
                view_seed=0,
                repeats=1,
                global_batch_size=BATCH_SIZE,
                num_threads=1,
            ),
            order,
            corpus=corpus,
            usable_labels=frozenset(corpus.members("train").sample_ids.tolist()),
            targets={NAMELESS: source},
        )
        batches = stream.batches(worker=0, num_workers=1, consumed=0)
        return Way(name=name, batches=batches, step=_step(corpus, loss), wall_ms=[], cpu_ms=[])

    return [
        way("plain supervised", NoTargets(), supervised),
        way("from the cache", cached.open(torch.device("cpu")), distilled),
        way("teacher in the loop", live.open(torch.device("cpu"))[NAMELESS], distilled),
    ]


def _corpus(folder: Path, images: str | None) -> PackedCorpus:
    packed = str(folder / "corpus")
    if images is None:
        pack(DigitsCorpus(kind="digits", uri=str(folder / "digits"), packed_uri=packed))
    else:
        pack(FolderCorpus(kind="folder", uri=images, packed_uri=packed))
    return open_corpus(packed)


def _teacher(folder: Path, corpus: PackedCorpus) -> KnownTeacher:
    num_classes = len(corpus.classes)
    config = Teacher.model_validate(
        {
            "model": {"kind": "cifar_resnet", "depth": 20},
            "weights": f"{folder}/teacher.safetensors",
            "input": {"size_px": SIZE.size_px},
            "outputs": {"logits": {"codec": "float16"}},
        }
    )
    module = build_model(config.model, num_classes=num_classes)
    save_weights(module, open_storage(str(folder)), "teacher.safetensors")
    return KnownTeacher(
        name="teacher",
        config=config,
        num_classes=num_classes,
        weights_uri=config.weights,
        weights_fingerprint=state_fingerprint(module),
        shapes={"logits": (num_classes,)},
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def _step(corpus: PackedCorpus, loss: Loss) -> Callable[[Batch], None]:
    config = Student(model=CifarResNet(kind="cifar_resnet", depth=8), input=SIZE)
    student = build_student(config, num_classes=len(corpus.classes), losses=[loss], target_shapes=({},))
    losses = WeightedLosses(losses=(loss,), teachers=(None if isinstance(loss, CrossEntropyLoss) else "teacher",))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)

    def step(batch: Batch) -> None:
        (part,) = batch.parts
        total, _ = losses(student(part.inputs_BCHW), part.labels, part.targets)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _tell(ways: Sequence[Way]) -> None:
    plain = ways[0]
    table = Table(
        title=f"ms per image, medians of {ROUNDS} rounds of {STEPS} steps (ratio: median of the rounds' ratios)"
    )
    for heading in ("", "CPU ms", "CPU ratio", "wall ms", "wall ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {}
    for way in ways:
        cpu = statistics.median(a / b for a, b in zip(way.cpu_ms, plain.cpu_ms, strict=True))
        wall = statistics.median(a / b for a, b in zip(way.wall_ms, plain.wall_ms, strict=True))
        rows[way.name] = {"cpu_ms": way.cpu_ms, "wall_ms": way.wall_ms, "cpu_ratio": cpu, "wall_ratio": wall}
        cells = (
            f"{statistics.median(way.cpu_ms):.3f}",
            f"{cpu:.2f}",
            f"{statistics.median(way.wall_ms):.3f}",
            f"{wall:.2f}",
        )
        table.add_row(way.name, *cells)
    Console().print(table)
    path = Path("out/bench/cached_epoch.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.platform(), "torch": torch.__version__}
    path.write_text(json.dumps({"rows": rows, **machine}, indent=1))


if __name__ == "__main__":
    main()

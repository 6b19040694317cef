"""Teachers that share a worker: images decoded once, views rendered once a size, and the bytes of each alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from kd_ray.cache import replay
from kd_ray.config.models import Input
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.job import build_extractor
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.views import View
from tests.support.tiny_world import extract, files_below, plan_teacher, plan_views, save_teacher

NUM_VIEWS = 2
OUTPUTS = ("summary", "logits")


@pytest.fixture
def teachers(tmp_path: Path, tiny_teacher: KnownTeacher) -> list[KnownTeacher]:
    """Two of one size, and a third at another; none of that at which views are described."""
    saved = [tiny_teacher, save_teacher(tmp_path, seed=1, name="other"), save_teacher(tmp_path, seed=2, name="small")]
    return [
        replace(each, config=each.config.model_copy(update={"input": Input(size_px=size_px)}))
        for each, size_px in zip(saved, [(40, 40), (40, 40), (24, 24)], strict=True)
    ]


def plans(teachers: list[KnownTeacher], corpus: PackedCorpus, cache: Path) -> list[TargetPlan]:
    views = plan_views(corpus, cache, num_views=NUM_VIEWS)
    return [plan_teacher(each, views, corpus, cache, outputs=OUTPUTS) for each in teachers]


def together(found: list[TargetPlan], *, batch_size: int = 32) -> list[int]:
    """Extracts with one worker of all; the forward passes of each teacher."""
    extractor = build_extractor(*(each.job for each in found), device="cpu", batch_size=batch_size, num_threads=1)
    forwards = [0] * len(found)
    for unit in found[0].missing:
        chosen = [number for number, each in enumerate(found) if unit in each.missing]
        for number, report in zip(chosen, extractor.for_seats(unit, chosen, attempt="first"), strict=True):
            forwards[number] += report.num_forwards
    return forwards


def test_images_are_decoded_once_and_views_rendered_once_for_each_size(
    teachers: list[KnownTeacher], tiny_corpus: PackedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    rendered: list[tuple[int, int]] = []
    decode, render = replay.decode, View.render

    def counting_decode(data: bytes) -> object:
        decoded.append(data)
        return decode(data)

    def counting_render(self: View, size_px: tuple[int, int], *arguments: object) -> object:
        rendered.append(size_px)
        return render(self, size_px, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(replay, "decode", counting_decode)
    monkeypatch.setattr(View, "render", counting_render)
    num_samples = tiny_corpus.num_samples("train")
    found = plans(teachers, tiny_corpus, tmp_path / "together")
    assert together(found) == [num_samples * NUM_VIEWS] * 3
    assert len(decoded) == len(set(decoded)) == num_samples
    assert rendered.count((40, 40)) == rendered.count((24, 24)) == num_samples * NUM_VIEWS


def test_the_files_are_those_of_each_alone(
    teachers: list[KnownTeacher], tiny_corpus: PackedCorpus, tmp_path: Path
) -> None:
    together(plans(teachers, tiny_corpus, tmp_path / "together"))
    for each in plans(teachers, tiny_corpus, tmp_path / "alone"):
        extract(each)
    assert files_below(tmp_path / "together") == files_below(tmp_path / "alone")


def test_a_teacher_that_is_there_already_does_not_run_again(
    teachers: list[KnownTeacher], tiny_corpus: PackedCorpus, tmp_path: Path
) -> None:
    extract(plans(teachers, tiny_corpus, tmp_path / "cache")[0])
    found = plans(teachers, tiny_corpus, tmp_path / "cache")
    assert not found[0].missing
    num_views = tiny_corpus.num_samples("train") * NUM_VIEWS
    added = [found[2], found[0], found[1]]  # one that misses all goes first: its units are those that are worked on
    assert together(added) == [num_views, 0, num_views]

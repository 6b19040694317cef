"""What a person sees of a stage at work: a bar on a terminal, few plain lines elsewhere."""

import io
import re
import time

import pytest
from rich.console import Console

from kd_ray.telemetry.progress import LINE_EVERY_S, SilentMeter, meter


class Clock:
    """The time that the meter reads."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


class TestLines:
    def test_name_rate_time_left_and_note(self, plain: Console, clock: Clock) -> None:
        with meter(plain, "train", unit="images", clock=clock) as progress:
            clock.now_s += 20.0
            progress.update(2_000, total=5_000, note="loss 0.125")
        assert lines_of(plain) == ["  train: 2,000/5,000 images, 100/s, 30 s left, loss 0.125"]

    def test_without_a_total_there_is_no_time_left(self, plain: Console, clock: Clock) -> None:
        with meter(plain, "pack", unit="files", clock=clock) as progress:
            clock.now_s += 20.0
            progress.update(300)
        assert lines_of(plain) == ["  pack: 300 files, 15/s"]

    def test_a_line_now_and_then_however_often_it_is_told(self, plain: Console, clock: Clock) -> None:
        with meter(plain, "train", unit="images", clock=clock) as progress:
            for done in range(1, 100):
                clock.now_s += 0.5
                progress.update(done, total=1_000)
        counts = [int(re.search(r"(\d+)/", line)[1]) for line in lines_of(plain)]  # type: ignore[index]
        assert counts == [20, 40, 60, 80]

    def test_the_end_is_told_at_once_and_once(self, plain: Console, clock: Clock) -> None:
        with meter(plain, "train", unit="images", clock=clock) as progress:
            progress.update(0, total=500)
            for _ in range(100):
                clock.now_s += 0.5
                progress.update(500, total=500)
                progress.update(500)
        assert lines_of(plain) == ["  train: 500/500 images, 1,000/s, 0 s left"]

    def test_a_stage_that_grows_after_its_end_goes_on(self, plain: Console, clock: Clock) -> None:
        with meter(plain, "pack", unit="files", clock=clock) as progress:
            for done, total in ((5, 5), (5, 10), (10, 10), (10, 10)):
                clock.now_s += LINE_EVERY_S
                progress.update(done, total=total)
        assert [line.split(",")[0] for line in lines_of(plain)] == [
            "  pack: 5/5 files",
            "  pack: 5/10 files",
            "  pack: 10/10 files",
        ]


class TestBar:
    def test_shows_count_rate_and_note_and_then_goes(self) -> None:
        console = Console(force_terminal=True, file=io.StringIO(), width=120, color_system=None)
        with meter(console, "extract", unit="views") as progress:
            progress.update(10, total=40)
            time.sleep(0.01)  # a rate needs two points in time
            progress.update(30, note="unit 3")
            time.sleep(0.25)  # the bar is drawn ten times a second
        shown = lines_of(console)
        text = "\n".join(shown)
        assert re.search(r"extract .*30/40 +[\d,]+ views/s .*unit 3", text)
        # a transient bar clears its line when it ends
        assert text.rstrip().endswith("\x1b[2K")


def test_nobody_watches_a_silent_meter(capsys: pytest.CaptureFixture[str]) -> None:
    SilentMeter().update(3, total=5, note="x")
    assert capsys.readouterr().out == ""

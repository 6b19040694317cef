"""One JSON object a line, appended."""

import json
import time
from pathlib import Path

from kd_ray.telemetry.events import EventLog


def test_each_event_is_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "events.jsonl"
    before_s = time.time()
    EventLog(path).write("unit", id="train-00000", views=3, note='two\nlines and "quotes"')
    EventLog(path).write("stage", seconds=1.5, uri=None)
    lines = path.read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["event"] == "unit"
    assert first["note"] == 'two\nlines and "quotes"'
    assert {key: second[key] for key in ("event", "seconds", "uri")} == {"event": "stage", "seconds": 1.5, "uri": None}
    assert before_s - 0.001 <= first["time"] <= second["time"] <= time.time() + 0.001


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    EventLog(None).write("unit", id="x")
    assert list(tmp_path.iterdir()) == []

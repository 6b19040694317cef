"""One JSON object a line, appended."""

import json
import time
from pathlib import Path

from kd_ray.storage import open_storage
from kd_ray.telemetry.events import PART_EVERY_S, EventLog, StoredEventLog


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


def test_where_nothing_can_be_appended_there_are_parts_in_order(tmp_path: Path) -> None:
    now_s = [1_000.0]
    storage = open_storage(str(tmp_path))
    log = StoredEventLog(storage, clock=lambda: now_s[0])
    log.write("unit", id=0)
    assert storage.list("events") == []
    now_s[0] += PART_EVERY_S
    log.write("unit", id=1)
    (first,) = storage.list("events")
    log.write("unit", id=2)
    log.close()
    log.close()
    later = StoredEventLog(storage, clock=lambda: 20_000.0)  # another run does not overwrite them
    later.write("unit", id=3)
    later.close()
    names = storage.list("events")
    assert (names[0], len(names)) == (first, 3)
    read = [json.loads(line)["id"] for name in names for line in storage.read(name).decode().splitlines()]
    assert read == [0, 1, 2, 3]

"""What a scan found comes back row by row, whatever the parts it was written in."""

import hashlib
import tempfile
from pathlib import Path

import pytest

from kd_ray.corpus.packing import findings
from kd_ray.corpus.packing.findings import REASONS, Finding, Findings, gather, read_part_size, write_part
from kd_ray.corpus.source import SPLITS
from kd_ray.storage import LocalStorage


def _finding(number: int, **changes: object) -> Finding:
    values: dict[str, object] = {
        "location": f"bücher/{number}.png",
        "locator": f"bücher/{number}.png",
        "run": number // 3,
        "split": SPLITS[number % 3],
        "reason": None,
        "label": f"class {number % 2}",
        "annotations": number,
        "has_caption": number % 2 == 0,
        "sha256": hashlib.sha256(str(number).encode()).digest(),
        "crc32c": number * 7,
        "size_bytes": 100 + number,
        "size_px": (number, 2 * number),
    }
    return Finding(**{**values, **changes})  # type: ignore[arg-type]


def _gathered(*parts: list[Finding], sources: tuple[int, ...] = (0, 1, 1)) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        sizes = [write_part(storage, str(index), rows, index=index) for index, rows in enumerate(parts)]
        data = [(source, storage.read(str(size.index))) for source, size in zip(sources, sizes, strict=False)]
    return gather(data, sizes)


class TestGather:
    def test_every_column_comes_back_in_the_order_of_the_parts(self) -> None:
        rows = [_finding(number) for number in range(10)]
        found = _gathered(rows[:4], rows[4:5], rows[5:])
        assert [found.where(i) for i in range(10)] == [row.location for row in rows]
        assert found.location.array().to_pylist() == [row.location for row in rows]
        assert [found.label_names[i] for i in found.label] == [row.label for row in rows]
        assert [SPLITS[i] for i in found.split] == [row.split for row in rows]
        assert [row.tobytes() for row in found.sha256] == [row.sha256 for row in rows]
        assert found.sample_ids.tolist() == [int.from_bytes(row.sha256[:8], "big") for row in rows]
        assert found.crc32c.tolist() == [row.crc32c for row in rows]
        assert found.size_bytes.tolist() == [row.size_bytes for row in rows]
        assert list(zip(found.height.tolist(), found.width.tolist(), strict=True)) == [row.size_px for row in rows]
        assert found.source.tolist() == [0] * 4 + [1] * 6

    def test_a_locator_that_is_the_location_is_not_stored_twice(self) -> None:
        found = _gathered([_finding(0), _finding(1, locator="a.tar#0-512")])
        assert found.locator.array().to_pylist() == ["", "a.tar#0-512"]

    def test_runs_of_different_parts_are_different_runs(self) -> None:
        found = _gathered([_finding(0, run=5), _finding(1, run=5)], [_finding(2, run=5), _finding(3, run=9)])
        assert found.run.tolist() == [0, 0, 1, 2]

    def test_a_long_part_is_written_and_read_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings, "BATCH_SIZE", 4)
        rows = [_finding(number, run=number // 5) for number in range(11)]
        found = _gathered(rows, [_finding(20, run=0)])
        assert [found.where(i) for i in range(12)] == [row.location for row in [*rows, _finding(20)]]
        assert found.run.tolist() == [0] * 5 + [1] * 5 + [2, 3]

    def test_a_missing_label_and_a_reason_survive(self) -> None:
        found = _gathered([_finding(0, label=None), _finding(1, reason="truncated"), _finding(2)])
        assert found.label[0] == -1
        assert [REASONS[i] for i in found.reason if i >= 0] == ["truncated"]
        assert found.label_names[found.label[2]] == "class 0"

    def test_a_part_written_before_says_its_size_again(self, tmp_path: Path) -> None:
        storage = LocalStorage(str(tmp_path))
        size = write_part(storage, "part", [_finding(number) for number in range(5)], index=3)
        assert read_part_size(storage, "part", index=3) == size
        assert size.num_bytes == sum(100 + number for number in range(5))

    @pytest.mark.parametrize("parts", [[[]], [[], [_finding(1)], []]])
    def test_empty_parts_are_no_rows(self, parts: list[list[Finding]]) -> None:
        assert len(_gathered(*parts)) == sum(map(len, parts))

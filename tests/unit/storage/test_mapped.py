"""Ranges of local files: the same bytes whether they are mapped or read."""

import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kd_ray.storage.mapped import LEAST_MAPPED_BYTES, mapped_or_read

DATA = np.random.default_rng(0).integers(0, 256, 3 * LEAST_MAPPED_BYTES, dtype=np.uint8)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(DATA.tobytes())
    opened = os.open(tmp_path / "file", os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("offset", [0, 1, mmap.ALLOCATIONGRANULARITY, LEAST_MAPPED_BYTES + 3, len(DATA), len(DATA) + 5])
@pytest.mark.parametrize("length", [0, 1, LEAST_MAPPED_BYTES - 1, LEAST_MAPPED_BYTES, 4 * LEAST_MAPPED_BYTES])
def test_any_range_is_that_of_the_file(descriptor: int, offset: int, length: int) -> None:
    found = mapped_or_read(descriptor, offset=offset, length=length)
    assert np.array_equal(found, DATA[offset : offset + length])


def test_large_ranges_are_mapped_and_outlive_the_file(tmp_path: Path, descriptor: int) -> None:
    found = mapped_or_read(descriptor, offset=5, length=LEAST_MAPPED_BYTES)
    assert not found.flags.writeable
    (tmp_path / "file").unlink()
    assert np.array_equal(found, DATA[5 : 5 + LEAST_MAPPED_BYTES])


def test_without_a_free_file_descriptor_they_are_read(descriptor: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # which are open already; a map takes one more
    try:
        found = mapped_or_read(descriptor, offset=5, length=LEAST_MAPPED_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.flags.writeable
    assert np.array_equal(found, DATA[5 : 5 + LEAST_MAPPED_BYTES])

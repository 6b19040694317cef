"""Numbers as people read them, also where rounding carries into the next unit."""

import pytest

from kd_ray.telemetry.units import human_bytes, human_seconds


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_800_000, "12.8 MB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (-1500, "-1.5 kB"),
        (2.5e18, "2500.0 PB"),
    ],
)
def test_bytes_in_powers_of_a_thousand(num_bytes: float, text: str) -> None:
    assert human_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7625, "2 h 07 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text

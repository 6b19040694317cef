"""What the reports of units add up to."""

import pytest

from kd_ray.telemetry.rates import ExtractionRates


class Clock:
    """The time that the rates read."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_views_a_second_by_type_of_accelerator_and_the_idle_share_of_all() -> None:
    clock = Clock()
    rates = ExtractionRates(num_units=4, clock=clock)
    clock.now_s += 10.0
    rates.add(accelerator="L4", views=300, seconds=10.0, teacher_s=9.0, value_bytes=1000)
    rates.add(accelerator="", views=20, seconds=10.0, teacher_s=5.0, value_bytes=500)
    rates.add(accelerator="L4", views=100, seconds=0.0, teacher_s=0.0, value_bytes=500)
    assert rates.views_per_s() == {"CPU": pytest.approx(2.0), "L4": pytest.approx(40.0)}
    assert rates.idle_share == pytest.approx(0.3)
    assert (rates.num_done, rates.value_bytes, rates.worker_s) == (3, 2000, 20.0)
    assert rates.note() == "3/4 units, CPU 2/s, L4 40/s, teachers idle 30 %, 2.0 kB"


def test_before_the_first_unit_nothing_is_divided_by_nothing() -> None:
    rates = ExtractionRates(num_units=4)
    assert (rates.idle_share, rates.views_per_s()) == (0.0, {})

"""What extraction workers tell Prometheus through Ray's own metrics; the names are in docs/observing.md."""

from ray.util.metrics import Counter, Gauge

from kd_ray.extraction.unit import UnitReport

TAGS = ("teacher", "accelerator")
UNKNOWN = "none"  # Prometheus drops labels that are empty


class ExtractionMetrics:
    """Counters and a gauge of one worker; Ray adds them up over all workers under the same names."""

    def __init__(self, teacher: str, *, accelerator: str) -> None:
        tags = {"teacher": teacher, "accelerator": accelerator or UNKNOWN}
        self._counters = {
            name: Counter(f"kd_ray_extraction_{name}_total", description=description, tag_keys=TAGS)
            for name, description in (
                ("units", "Units committed."),
                ("views", "Views of committed units."),
                ("forwards", "Teacher forward passes, one a view."),
                ("value_bytes", "Bytes of targets written, without checksums."),
                ("seconds", "Seconds spent on units."),
                ("render_wait_seconds", "Seconds in which the teacher waited for views."),
                ("teacher_seconds", "Seconds in which the teacher computed."),
            )
        }
        self._idle = Gauge(
            "kd_ray_extraction_teacher_idle_share",
            description="Share of the last unit's time in which the teacher did not compute.",
            tag_keys=TAGS,
        )
        for metric in (*self._counters.values(), self._idle):
            metric.set_default_tags(tags)

    def add(self, report: UnitReport) -> None:
        """One more unit."""
        amounts = {
            "units": 1,
            "views": report.num_views,
            "forwards": report.num_forwards,
            "value_bytes": report.value_bytes,
            "seconds": report.seconds,
            "render_wait_seconds": report.render_wait_s,
            "teacher_seconds": report.teacher_s,
        }
        for name, amount in amounts.items():
            if amount > 0:  # Ray's counters refuse 0
                self._counters[name].inc(amount)
        self._idle.set(report.idle_share)

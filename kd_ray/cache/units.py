"""A unit: a block of views times whole row groups of one shard. What is computed, committed and retried."""

import re
from dataclasses import dataclass

_ID = re.compile(r"^(?P<shard>.+)\.g(?P<g0>\d+)-(?P<g1>\d+)\.v(?P<v0>\d+)-(?P<v1>\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """Whole row groups [group_start, group_stop) of one shard: the rows of a unit, whatever its views."""

    shard: str
    group_start: int
    group_stop: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Unit:
    """The views [view_start, view_stop) of the rows of one span."""

    span: Span
    view_start: int
    view_stop: int

    @property
    def id(self) -> str:
        """The unit's name on disk; `from_id` reads it back."""
        span = self.span
        groups = f"g{span.group_start:05d}-{span.group_stop:05d}"
        return f"{span.shard}.{groups}.v{self.view_start:04d}-{self.view_stop:04d}"

    @property
    def num_views(self) -> int:
        """How many views of each row."""
        return self.view_stop - self.view_start

    @staticmethod
    def from_id(text: str) -> "Unit":
        """The unit of that name; ValueError where it is not one."""
        match = _ID.match(text)
        if match is not None:
            span = Span(shard=match["shard"], group_start=int(match["g0"]), group_stop=int(match["g1"]))
            unit = Unit(span=span, view_start=int(match["v0"]), view_stop=int(match["v1"]))
            if unit.id == text:
                return unit
        raise ValueError(f"{text!r} is not the name of a unit")

"""What is wrong with a cache, object by object."""

from dataclasses import dataclass

from kd_ray.cache.units import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One object, what is wrong with it and what to do; `unit` where computing that unit again mends it."""

    location: str
    problem: str
    unit: Unit | None = None

    @staticmethod
    def of(error: Exception, *, location: str, unit: Unit | None = None) -> "Finding":
        """Of an error whose message begins with the location."""
        return Finding(location=location, problem=str(error).removeprefix(f"{location}: "), unit=unit)

    def __str__(self) -> str:
        return f"{self.location}: {self.problem}"

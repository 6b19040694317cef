"""kd_ray: run a vision teacher once over fixed, replayable views; distil any number of students from the cache."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_ray.api import distill

__all__ = ["distill"]


def __getattr__(name: str) -> Any:
    """`kd_ray.distill`, loaded when it is first asked for: `import kd_ray.config` must stay cheap."""
    if name == "distill":
        from kd_ray.api import distill

        return distill
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

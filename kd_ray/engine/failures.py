"""From what Ray wraps around an error to the error itself."""

from collections.abc import Iterator

from kd_ray.errors import KdRayError


def own_error(error: BaseException) -> KdRayError | None:
    """The project's own error inside a Ray error, however deep; None where there is none."""
    return next((each for each in _inside(error, set()) if isinstance(each, KdRayError)), None)


def _inside(error: object, seen: set[int]) -> Iterator[object]:
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen.add(id(error))
    for name in ("cause", "__cause__", "__context__"):
        yield from _inside(getattr(error, name, None), seen)
    for each in getattr(error, "worker_failures", {}).values():
        yield from _inside(each, seen)
    yield error

"""Pydantic's errors, told as a person would: where it was written, the dotted path, what was got, what is allowed."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kd_ray.config.base import Misfits


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe."""

    origin: str
    path: str
    got: str
    allowed: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f" Did you mean {self.suggestion}?" if self.suggestion else ""
        return f"{self.origin}: {_without_secrets(f'{self.path}: {self.got}')}; {self.allowed}.{hint}"


def describe(problems: Sequence[Problem], *, what: str = "the recipe") -> str:
    """All problems of `what` as one paragraph, a line each."""
    count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return "\n".join([f"{what} has {count}:", *(f"  {problem}" for problem in problems)])


def problems_of(
    invalid: ValidationError, model: type[BaseModel], *, origins: Mapping[str, str], default_origin: str
) -> list[Problem]:
    """One `Problem` per pydantic error, in the order of the recipe's own fields."""
    found = []
    for each in invalid.errors(include_url=False, include_context=True):
        if each["type"] == "too_short" and each["input"]:
            continue  # pydantic's echo of mistakes inside the list, which are reported themselves
        path = _written_path(model, each["loc"])
        error = each.get("ctx", {}).get("error")
        if isinstance(error, Misfits):
            for inside, reason in error.found:
                written = (*path, *inside.split("."))
                origin = origin_of(written, origins) or default_origin
                found.append(Problem(origin, ".".join(written), "does not fit together", reason))
            continue
        origin = origin_of(path, origins) or default_origin
        found.append(_problem(dict(each), path=path, origin=origin, model=model))
    return found


def _problem(error: dict[str, Any], *, path: tuple[str, ...], origin: str, model: type[BaseModel]) -> Problem:
    dotted = ".".join(path) or "the recipe"
    got = error["input"]
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return Problem(origin, dotted, "is missing", f"give it here or as {dotted}=…")
        case "extra_forbidden":
            names = _names_beside(model, error["loc"])
            close = difflib.get_close_matches(path[-1], names, n=1)
            return Problem(origin, dotted, "unknown key", f"allowed here: {', '.join(names)}", *close)
        case "literal_error" | "union_tag_invalid":
            allowed = context.get("expected") or context.get("expected_tags", "")
            wrong = context.get("tag", got)
            close = difflib.get_close_matches(str(wrong), _words(allowed), n=1)
            field = dotted if error["type"] == "literal_error" else f"{dotted}.kind"
            return Problem(origin, field, f"got {wrong!r}", f"allowed: {', '.join(_words(allowed))}", *close)
        case "union_tag_not_found":
            return Problem(origin, f"{dotted}.kind", "is missing", "it says which of the choices this section is")
        case "value_error":
            return Problem(origin, dotted, "does not fit together", str(context["error"]).rstrip("."))
        case _:
            message = error["msg"][0].lower() + error["msg"][1:]
            return Problem(origin, dotted, f"got {_short(got)}", message)


def _without_secrets(text: str) -> str:
    """`text` without the rest of URLs that hold a user, a password or a query."""
    return re.sub(r"(\w://)[^\s'\"]*[@?][^\s'\"]*", r"\1…", text)


def origin_of(path: Sequence[str], origins: Mapping[str, str]) -> str:
    """Where the path, or else the innermost section around it, was written."""
    for length in range(len(path), 0, -1):
        origin = origins.get(".".join(path[:length]))
        if origin is not None:
            return origin
    return ""


def _written_path(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Pydantic's location without the tags of unions, which nobody wrote."""
    path: list[str] = []
    annotation: Any = model
    for part in location:
        annotation = _unwrap(annotation)
        if get_origin(annotation) is Union or _is_union(annotation):
            annotation = _member(annotation, str(part))
            continue
        path.append(str(part))
        annotation = _inner(annotation, part)
    return tuple(path)


def _names_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    annotation: Any = model
    for part in location[:-1]:
        annotation = _unwrap(annotation)
        annotation = _member(annotation, str(part)) if _is_union(annotation) else _inner(annotation, part)
    annotation = _unwrap(annotation)
    return list(annotation.model_fields) if _is_model(annotation) else []


def _unwrap(annotation: Any) -> Any:
    """Without Annotated, and without None where only one choice remains."""
    if isinstance(annotation, FieldInfo):
        annotation = annotation.annotation
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if _is_union(annotation):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        if len(choices) == 1:
            return _unwrap(choices[0])
    return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _member(annotation: Any, tag: str) -> Any:
    for choice in map(_unwrap, get_args(annotation)):
        if (
            _is_model(choice)
            and "kind" in choice.model_fields
            and tag in get_args(choice.model_fields["kind"].annotation)
        ):
            return choice
    return None


def _inner(annotation: Any, part: int | str) -> Any:
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    if get_origin(annotation) is tuple and arguments:
        return arguments[0]
    return None


def _words(text: Any) -> list[str]:
    return [word.strip(" '\"") for word in str(text).replace(" or ", ", ").split(",") if word.strip()]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

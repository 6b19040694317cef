"""What every section of a recipe shares: frozen values, unknown keys refused."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of a recipe; an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Misfits(ValueError):
    """Values that are right each by itself but do not fit together: (dotted path inside the section, why) of each."""

    def __init__(self, found: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in found))
        self.found = tuple(found)

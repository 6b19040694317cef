"""What every section of a recipe shares: frozen values, unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of a recipe; an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

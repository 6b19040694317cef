"""What every section of a recipe shares: frozen values, unknown keys refused."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

# user:password@, where the password may hold slashes as AWS's do, and signed or token-bearing queries
CREDENTIALS = re.compile(
    r"://[^/@]*@|://[^/@:]*:(?!\d{1,5}(/|$))[^@]*@|[?&#][^=&]*(signature|credential|token|secret|sig|password|passwd|auth|api_?key|access_?key)=",
    re.IGNORECASE,
)


class Section(BaseModel):
    """A frozen part of a recipe; an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _without_credentials(location: str) -> str:
    """A recipe is stored beside its outputs and shown in reports: nothing in it may open a door."""
    if CREDENTIALS.search(location):
        # the value itself is left out of the message, which ends in logs
        raise ValueError("holds credentials; give them by the environment or a profile, and the plain location here")
    return location


Location = Annotated[str, AfterValidator(_without_credentials)]


class Misfits(ValueError):
    """Values that are right each by itself but do not fit together: (dotted path inside the section, why) of each."""

    def __init__(self, found: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in found))
        self.found = tuple(found)

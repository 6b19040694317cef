"""Shell patterns over locations: `*`, `?` and `[...]` within a name, `**` for any number of folders."""

import re
from dataclasses import dataclass
from functools import cached_property

from fsspec.utils import glob_translate

MAGIC = "*?["


@dataclass(frozen=True)
class Pattern:
    """A pattern of whole locations."""

    text: str

    @cached_property
    def folder(self) -> str:
        """The folder that all matches lie in: everything before the first name with a wildcard."""
        fixed = []
        for part in self._parts[:-1]:
            if is_pattern(part):
                break
            fixed.append(part)
        return "/".join(fixed)

    def takes(self, location: str) -> bool:
        """Whether the file matches."""
        return self._whole.match(location) is not None

    def enters(self, location: str) -> bool:
        """Whether something below the folder can match."""
        names = location.split("/")
        if len(names) > len(self._by_depth):
            if "**" not in self._parts:
                return False
            names = names[: len(self._by_depth)]
        return not names or self._by_depth[len(names) - 1].match("/".join(names)) is not None

    @cached_property
    def _parts(self) -> list[str]:
        return self.text.split("/")

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        return re.compile(glob_translate(self.text))

    @cached_property
    def _by_depth(self) -> list[re.Pattern[str]]:
        """What the first one, two, ... names of a folder must match; below `**`, anything goes."""
        end = self._parts.index("**") if "**" in self._parts else len(self._parts) - 1
        return [re.compile(glob_translate("/".join(self._parts[:depth]))) for depth in range(1, end + 1)]


def is_pattern(path: str) -> bool:
    """Whether `path` has a wildcard."""
    return any(character in path for character in MAGIC)

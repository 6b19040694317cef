"""What a storage must offer, and the canonical form of the JSON kept in it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Data = bytes | Bytes  # what can be written
Names = list[str]  # an alias, since `list` is a method below


@dataclass(frozen=True, slots=True)
class Stored:
    """What a listing tells of one object; the time is that of its writing, in seconds since 1970."""

    size_bytes: int
    modified_s: float


class Storage(Protocol):
    """Objects by name (`a/b/c`) below one root.

    Reading a missing object raises FileNotFoundError; everything else that goes wrong, a missing bucket in a write
    included, raises StorageError naming the location.
    """

    @property
    def uri(self) -> str:
        """The root, as it can be given to another process."""

    def read(self, name: str) -> bytes:
        """The whole object."""

    def read_range(self, name: str, *, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer, down to none, only where the object ends before."""

    def load_range(self, name: str, *, offset: int, length: int, seen: Callable[[Bytes], None]) -> Bytes:
        """As `read_range`, without a copy: an array that is not to be written to, for objects that never change.

        `seen` gets part after part as it arrives, while it is in the processor's caches.
        """

    def exists(self, name: str) -> bool:
        """Whether the object is there."""

    def size_bytes(self, name: str) -> int:
        """Length of the object."""

    def list(self, prefix: str) -> Names:
        """Sorted names of all objects anywhere below the folder `prefix` ("" for the root); [] where there is none."""

    def inventory(self, prefix: str) -> dict[str, Stored]:
        """What `list` names, sorted, with sizes and times, and the temporary files that killed writers left.

        Raises StorageError where the protocol does not tell when objects were written.
        """

    def folders(self, prefix: str) -> Names:
        """Sorted names (last part only) of the folders directly below `prefix`."""

    def write(self, name: str, data: Data) -> None:
        """Write the object whole or not at all, replacing what was there."""

    def write_from(self, name: str, produce: Callable[[BinaryIO], None]) -> None:
        """As `write`, of what `produce` writes to the file that it is given; nothing where it raises.

        For large objects that are not read again soon: the system is told not to keep them in memory.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write the object only if there is none of that name, else return False; of racing writers one wins."""

    def remove(self, prefix: str) -> None:
        """Remove the object or the folder `prefix` with all below it; nothing happens where there is none."""


def join(uri: str, *parts: str) -> str:
    """`uri` followed by `parts`, separated by one slash each."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()

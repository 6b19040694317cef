"""Second moments of an output, computed once from each stored unit and kept beside it in folded objects.

`<output>/moments/<number of units>-<digest>` holds those of a set of units, which its record names by unit and attempt;
it is created conditionally and never changed. A matrix has the same size however many units it covers, so whatever is
computed in one go is one object, and when more than FAN_IN objects are in use they are folded into one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.commits import Commit
from kd_ray.cache.framed import decode_framed, encode_framed, read_record
from kd_ray.cache.second_moments import SecondMoments, token_positions
from kd_ray.cache.target_set import Output, SampleIds
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from kd_ray.storage.base import canonical_json

Item = TypeVar("Item")

FOLDER = "moments"
KIND = "second moments"
RECIPE = 1  # goes up when other tokens are taken, or other numbers are kept of them
FAN_IN = 8
# After so many units an object is written: what a crash loses.
UNITS_AN_OBJECT = 4096
# Each has one view of one unit in memory, and one matrix: 19 MB at 1536 channels.
NUM_THREADS = 4
ADVICE = "Remove the file; what it holds is computed again."

Attempts = frozenset[tuple[str, str]]
"""Units by name, and the attempt of each that was read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folded:
    """The second moments of some units."""

    attempts: Attempts
    moments: SecondMoments

    def merged(self, other: "Folded") -> "Folded":
        """Of both; they have no unit in common."""
        return Folded(attempts=self.attempts | other.attempts, moments=self.moments.merged(other.moments))

    @property
    def name(self) -> str:
        """Of the object, without its folder: the number of units, and a digest of all that decides its numbers."""
        listed = canonical_json([RECIPE, sorted(self.attempts)])
        return f"{len(self.attempts)}-{hashlib.blake2b(listed, digest_size=16).hexdigest()}"

    def to_bytes(self) -> bytes:
        """As stored: of the symmetric matrix the upper triangle, row by row."""
        record = {"format": 1, "kind": KIND, "recipe": RECIPE, "count": self.moments.count}
        record["units"] = [list(each) for each in sorted(self.attempts)]
        upper = np.triu_indices(len(self.moments.mean_D))
        return encode_framed(record, {"mean": self.moments.mean_D, "scatter": self.moments.scatter_DD[upper]})

    @staticmethod
    def from_bytes(data: bytes, *, location: str) -> "Folded":
        """The inverse of `to_bytes`, bit for bit where the matrix is symmetric.

        Raises:
            CacheCorrupt: it is something else, has changed since, or belongs under another name.
        """
        record, arrays = decode_framed(data, location=location, advice=ADVICE)
        attempts = _attempts_in(record, location=location)
        mean_D = arrays["mean"]
        upper_DD = np.zeros((len(mean_D), len(mean_D)))
        upper_DD[np.triu_indices(len(mean_D))] = arrays["scatter"]
        scatter_DD = upper_DD + np.triu(upper_DD, 1).T
        found = SecondMoments(count=record["count"], mean_D=mean_D, scatter_DD=scatter_DD)
        return Folded(attempts=attempts, moments=found)


def moments_of(output: Output, commits: Iterable[Commit]) -> SecondMoments:
    """Of at most 8 keyed tokens of every view of the units of `commits`, as they are stored, that is after rounding.

    What earlier calls have folded is read; the rest is computed in threads, and folded. Not for top_k.

    Raises:
        CacheIncomplete: there are no units.
        CacheCorrupt: a unit or a folded object does not match its checksums.
    """
    assert output.coding.codec != "top_k", "the k greatest of logits have no second moments"
    by_attempt = {(commit.unit.id, commit.attempt): commit for commit in commits}
    if not by_attempt:
        location = output.collection.location(output.collection.folder)
        raise CacheIncomplete(f"{location}: has no units yet. Run the extract stage first.")
    used = _folded(output, wanted=frozenset(by_attempt))
    missing = sorted(by_attempt.keys() - {each for folded in used for each in folded.attempts})
    for part in _in_runs(missing, UNITS_AN_OBJECT):
        computed = Folded(attempts=frozenset(part), moments=_computed(output, [by_attempt[each] for each in part]))
        _store(output, computed)
        used.append(computed)
    whole = reduce(Folded.merged, used)
    if len(used) > FAN_IN:
        _store(output, whole)
    return whole.moments


def read_folded(output: Output) -> Iterator[tuple[str, Folded | CacheCorrupt]]:
    """Every folded object by its name below the storage, or what is wrong with it."""
    storage = output.collection.storage
    for name in storage.list(f"{output.collection.folder}/{FOLDER}"):
        location = output.collection.location(name)
        try:
            found = Folded.from_bytes(storage.read(name), location=location)
            _refuse_other_name(found, name, output)
        except CacheCorrupt as error:
            yield name, error
        else:
            yield name, found


def superseded(output: Output) -> list[str]:
    """The objects whose units another object has, too; what is not readable is not among them."""
    storage = output.collection.storage
    found: dict[str, Attempts] = {}
    for name in storage.list(f"{output.collection.folder}/{FOLDER}"):
        with suppress(CacheCorrupt):
            record = read_record(storage, name, advice=ADVICE)
            found[name] = _attempts_in(record, location=output.collection.location(name))
    return [name for name, units in found.items() if any(units < others for others in found.values())]


def _folded(output: Output, *, wanted: Attempts) -> list[Folded]:
    """Disjoint objects that hold nothing but `wanted` units, those of the most units first."""
    storage = output.collection.storage
    names = storage.list(f"{output.collection.folder}/{FOLDER}")
    left, used = wanted, []
    for name in sorted(names, key=_num_units, reverse=True):
        if not left:
            break
        if _num_units(name) > len(left):
            continue
        location = output.collection.location(name)
        if _attempts_in(read_record(storage, name, advice=ADVICE), location=location) <= left:
            found = Folded.from_bytes(storage.read(name), location=location)
            _refuse_other_name(found, name, output)
            left -= found.attempts
            used.append(found)
    return used


def _num_units(name: str) -> int:
    """By its name; 0, which is read last, of what is no folded object."""
    count = name.rsplit("/", 1)[-1].partition("-")[0]
    return int(count) if count.isdecimal() else 0


def _attempts_in(record: Mapping[str, Any], *, location: str) -> Attempts:
    if (record.get("format"), record.get("kind"), record.get("recipe")) != (1, KIND, RECIPE):
        raise CacheCorrupt(f"{location}: does not hold {KIND} of recipe {RECIPE} in format 1. {ADVICE}")
    return frozenset((unit, attempt) for unit, attempt in record["units"])


def _refuse_other_name(found: Folded, name: str, output: Output) -> None:
    if name.rsplit("/", 1)[-1] != found.name or found.moments.mean_D.shape != output.shape[-1:]:
        location = output.collection.location(name)
        raise CacheCorrupt(f"{location}: holds what belongs under the name {found.name} of another output. {ADVICE}")


def _store(output: Output, folded: Folded) -> None:
    """Where another process has been first, its object holds the same units."""
    name = f"{output.collection.folder}/{FOLDER}/{folded.name}"
    output.collection.storage.create(name, folded.to_bytes())


def _computed(output: Output, commits: Sequence[Commit]) -> SecondMoments:
    calibration = output.fixed_calibration()

    def of_unit(commit: Commit) -> SecondMoments:
        sample_ids = output.sample_ids(commit)
        views = range(commit.unit.view_start, commit.unit.view_stop)
        tokens = (_taken_tokens(output, commit, view, sample_ids, calibration) for view in views)
        return reduce(SecondMoments.merged, map(SecondMoments.of, tokens))

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        # a few at a time: each result is a matrix
        parts = (part for some in _in_runs(commits, 2 * NUM_THREADS) for part in pool.map(of_unit, some))
        return reduce(SecondMoments.merged, parts)


def _in_runs(items: Sequence[Item], length: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + length] for start in range(0, len(items), length))


def _taken_tokens(
    output: Output, commit: Commit, view_index: int, sample_ids: SampleIds, calibration: Calibration | None
) -> NDArray[Any]:
    """[X, D]: the tokens of one view of a unit that count."""
    arrays = output.read_encoded(commit, view_index=view_index, sample_ids=sample_ids)
    token_shape = output.shape[:-1]
    positions_Nt = token_positions(sample_ids, view_index, num_tokens=int(np.prod(token_shape)))
    rows_N1 = np.arange(len(sample_ids))[:, None]
    # taken before they are decoded, which costs more
    taken = {
        name: array.reshape(len(sample_ids), -1, *array.shape[1 + len(token_shape) :])[rows_N1, positions_Nt]
        for name, array in arrays.items()
    }
    decoded = output.coding.decode(taken, calibration=calibration)
    return decoded.reshape(-1, output.shape[-1])

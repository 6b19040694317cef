"""Which samples a packing keeps, in which order and in which shards: pure functions of what the scan found."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kd_ray.corpus.format import Settings, shard_name
from kd_ray.corpus.packing.findings import ACCEPTED, NO_NAME, REASONS, Findings
from kd_ray.corpus.packing.text import shortened
from kd_ray.corpus.source import NOT_BAD, SPLITS, SplitName
from kd_ray.errors import CorpusError

# Bytes that are shuffled together where a source is read in sequence: what one worker holds in memory.
CHUNK_BYTES = 256 << 20

MAX_MISSING_NUMBERS, MAX_DIGITS = 1000, 10  # a label beyond is a class of its own, not a count of classes
MIN_TASKS = 8  # a task costs Ray 25 ms, which tiny images would not be worth

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of every input: parallel arrays [N] over the findings.

    `kept` marks one input per distinct image, `label` is its class (-1 for none), `copies` how many it stands for.
    `reason` indexes REASONS where the input goes to quarantine.
    """

    kept: NDArray[np.bool_]
    label: NDArray[np.int32]
    copies: NDArray[np.int32]
    reason: NDArray[np.int8]
    num_duplicates: int

    def left_out(self) -> dict[str, int]:
        """Rows in quarantine by reason, sorted by its name."""
        counts = Counter(self.reason[self.reason != ACCEPTED].tolist())
        return dict(sorted((REASONS[index], count) for index, count in counts.items()))

    def bad(self) -> NDArray[np.bool_]:
        """Which inputs max_bad_fraction is about."""
        fine = [ACCEPTED, *(REASONS.index(reason) for reason in sorted(NOT_BAD))]
        return ~np.isin(self.reason, fine)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A shard to be written: its rows among the findings, in order.

    `digest` (hex) is of their content hashes, `annotations` (hex) of their labels, masks, boxes and polygons.
    """

    name: str
    source: int
    split: SplitName
    rows: Rows
    digest: str
    annotations: str


def class_list(
    declared: Sequence[Sequence[str]],
    found: Sequence[str],
    label_map: Mapping[str, str | None],
    *,
    before: Sequence[str] = (),
    where: str,
) -> tuple[str, ...]:
    """Class names by label: those `before`, which keep their numbers, then those that sources declare in their order,
    then the others, numbers before names.

    Where all are numbers and few are missing, the names are all numbers from 0 to the highest. `before` are names as
    they are packed, `declared` and `found` as the sources have them: `label_map` is for the latter.

    Raises:
        CorpusError: `label_map` names a class that there is not, at the first packing.
    """
    others = sorted(set(found), key=lambda name: (not _is_number(name), int(name) if _is_number(name) else 0, name))
    known = list(dict.fromkeys([*(name for names in declared for name in names), *others]))
    for name in label_map:
        if name not in known and not before:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise CorpusError(
                f"{where}: corpus.label_map names {name!r}, but the classes are {shortened(known)}.{hint} "
                "Correct the map."
            )
    counted = all(list(names) == [str(number) for number in range(len(names))] for names in (before, *declared))
    if counted and not label_map and known and all(map(_is_number, known)):
        highest = max(map(int, (*before, *known)))
        if highest < MAX_MISSING_NUMBERS + 2 * (len(before) + len(known)):
            return tuple(str(number) for number in range(highest + 1))
    return tuple(dict.fromkeys((*before, *mapped_names(known, label_map))))


def mapped_names(names: Iterable[str], label_map: Mapping[str, str | None]) -> list[str]:
    """What the map makes of class names, each once, in the order of the first of them."""
    mapped = (label_map.get(name, name) for name in names)
    return list(dict.fromkeys(name for name in mapped if name is not None))


def _is_number(name: str) -> bool:
    """Whether a name is a number as it would be written: `007` is a name."""
    return name.isascii() and name.isdecimal() and (name == "0" or not name.startswith("0")) and len(name) < MAX_DIGITS


def label_indices(
    found: Sequence[str], classes: Sequence[str], label_map: Mapping[str, str | None]
) -> NDArray[np.int32]:
    """The class of each name that the scan found; -1 for none."""
    index_of = {name: index for index, name in enumerate(classes)}
    names = (label_map.get(name, name) for name in found)
    return np.array([NO_NAME if name is None else index_of[name] for name in names], np.int32)


def judge(findings: Findings, labels: NDArray[np.int32]) -> Verdict:
    """Decide between copies: what disagrees leaves none, test goes before val before train, then the first one stays
    that has annotations, a caption, or neither.

    `labels` are the classes of the findings' label names. A missing label is no disagreement.

    Raises:
        CorpusError: two different images share a sample id.
    """
    of_input = np.append(labels, np.int32(NO_NAME))[findings.label]
    verdict = Verdict(
        kept=findings.reason == ACCEPTED,
        label=of_input,
        copies=np.ones(len(findings), np.int32),
        reason=findings.reason.copy(),
        num_duplicates=0,
    )
    num_duplicates = 0
    for copies in _groups_of_copies(findings):
        num_duplicates += _judge_copies(copies, findings, verdict)
    return replace(verdict, num_duplicates=num_duplicates)


def _groups_of_copies(findings: Findings) -> Iterator[Rows]:
    """The rows of equal images, for every image that is there more than once, each in the order of the listing."""
    ids = findings.sample_ids
    order = np.argsort(ids)
    ids = ids[order]
    repeats = np.flatnonzero(ids[1:] == ids[:-1]) + 1
    del ids
    end = 0
    while end < len(repeats):
        start = end
        end += 1
        while end < len(repeats) and repeats[end] == repeats[end - 1] + 1:
            end += 1
        rows = np.sort(order[repeats[start] - 1 : repeats[end - 1] + 1])
        rows = rows[findings.reason[rows] == ACCEPTED]  # what was rejected has no content to be equal
        if len(rows) < 2:
            continue
        if np.any(findings.sha256[rows] != findings.sha256[rows[0]]):
            first, other = (findings.where(row) for row in _two_hashes(rows, findings))
            raise CorpusError(
                f"{first} and {other}: two images share a sample_id (the first 64 bits of their SHA-256). "
                "Remove one of them from the source."
            )
        yield rows


def _two_hashes(rows: Rows, findings: Findings) -> tuple[int, int]:
    differs = np.any(findings.sha256[rows] != findings.sha256[rows[0]], axis=1)
    return int(rows[0]), int(rows[np.flatnonzero(differs)[0]])


def _judge_copies(rows: Rows, findings: Findings, verdict: Verdict) -> int:
    """Write what becomes of equal images into the verdict; the number of those that are merely dropped."""
    labels = set(verdict.label[rows].tolist()) - {NO_NAME}
    annotations = set(findings.annotations[rows].tolist()) - {0}
    verdict.kept[rows] = False
    if len(labels) > 1 or len(annotations) > 1:
        verdict.reason[rows] = REASONS.index("conflicting_labels")
        return 0
    splits = findings.split[rows]
    stays_in = max(splits.tolist())  # in the order of SPLITS: what is held out stays held out
    candidates = rows[splits == stays_in]
    tells_most = np.lexsort((~findings.has_caption[candidates], findings.annotations[candidates] == 0))
    stays = int(candidates[tells_most[0]])
    leaking = rows[splits != stays_in]
    verdict.reason[leaking] = REASONS.index("duplicate_of_test")
    verdict.kept[stays] = True
    verdict.copies[stays] = len(rows)
    verdict.label[stays] = next(iter(labels), NO_NAME)
    return len(rows) - len(leaking) - 1


def order_keys(findings: Findings, rows: Rows, *, seed: int) -> NDArray[np.uint64]:
    """Sorting by these gives a pseudo-random order that depends on seed and content alone."""
    key = str(seed).encode()[:64]
    keys = np.empty(len(rows), np.uint64)
    for i, row in enumerate(rows):  # not its list, whose numbers would take 40 bytes each
        digest = hashlib.blake2b(findings.sha256[row].tobytes(), key=key, digest_size=16).digest()
        keys[i] = int.from_bytes(digest[:8], "big")
    return keys


def _order(findings: Findings, rows: Rows, *, seed: int, is_sequential: bool) -> Rows:
    keys = order_keys(findings, rows, seed=seed)
    if not is_sequential:
        return np.argsort(keys, kind="stable")
    return np.lexsort((keys, _chunks(findings, rows, seed=seed)))


def plan_shards(
    findings: Findings,
    verdict: Verdict,
    *,
    settings: Settings,
    is_packed: NDArray[np.bool_],
    next_index: Mapping[SplitName, int],
    is_sequential: Sequence[bool],
) -> list[PlannedShard]:
    """Cut the samples that are not packed yet into shards, source by source and split by split.

    `is_packed` [N] marks those that are; `next_index` is the number of the first new shard of each split;
    `is_sequential` says of each source whether its order goes by runs first.
    """
    is_new = verdict.kept & ~is_packed
    numbers = dict(next_index)
    shards: list[PlannedShard] = []
    for source, sequential in enumerate(is_sequential):
        of_source = np.flatnonzero(is_new & (findings.source == source))
        ordered = of_source[_order(findings, of_source, seed=settings.seed, is_sequential=sequential)]
        del of_source
        for split in SPLITS:
            rows = ordered[findings.split[ordered] == SPLITS.index(split)]
            for chosen in _cut(rows, findings.size_bytes[rows], settings=settings):
                digest = hashlib.sha256(findings.sha256[chosen].tobytes()).hexdigest()
                name = shard_name(split, numbers.get(split, 0))
                numbers[split] = numbers.get(split, 0) + 1
                shards.append(
                    PlannedShard(
                        name=name,
                        source=source,
                        split=split,
                        rows=chosen,
                        digest=digest,
                        annotations=annotations_of(chosen, findings, verdict),
                    )
                )
    return shards


def annotations_of(rows: Rows, findings: Findings, verdict: Verdict) -> str:
    """A digest (hex) of the labels, masks, boxes and polygons of a shard's samples, in their order."""
    said = hashlib.sha256(verdict.label[rows].tobytes() + findings.annotations[rows].tobytes())
    return said.hexdigest()[:16]


def _cut(rows: Rows, sizes: NDArray[np.int64], *, settings: Settings) -> Iterator[Rows]:
    """Rows in runs of whole row groups: as many as the settings say, fewer where CHUNK_BYTES would be passed."""
    starts = np.arange(0, len(rows), settings.row_group_size)
    group_sizes = np.add.reduceat(sizes, starts) if len(rows) else sizes
    first, filled = 0, 0
    for group, size in enumerate(group_sizes.tolist()):
        if group > first and (group - first == settings.shard_row_groups or filled + size > CHUNK_BYTES):
            yield rows[starts[first] : starts[group]]
            first, filled = group, 0
        filled += size
    if len(rows):
        yield rows[starts[first] :]


def _chunks(findings: Findings, rows: Rows, *, seed: int) -> NDArray[np.int32]:
    """Runs in a pseudo-random order, gathered until they fill a worker's memory: the chunk of each row."""
    runs, first, inverse = np.unique(findings.run[rows], return_index=True, return_inverse=True)
    sizes = np.bincount(inverse, weights=findings.size_bytes[rows], minlength=len(runs))
    keys = order_keys(findings, rows[first], seed=seed)  # a run is known by its first image
    chunk_of_run = np.empty(len(runs), np.int32)
    chunk, filled = 0, 0.0
    for run in np.argsort(keys, kind="stable").tolist():
        if filled and filled + sizes[run] > CHUNK_BYTES:
            chunk, filled = chunk + 1, 0.0
        chunk_of_run[run] = chunk
        filled += sizes[run]
    return chunk_of_run[inverse].astype(np.int32)


def group_for_writing(
    shards: Sequence[PlannedShard], findings: Findings, *, is_sequential: Sequence[bool]
) -> list[tuple[PlannedShard, ...]]:
    """Shards that one worker writes in one go: neighbours, up to a limit of bytes.

    Where the source is read in sequence the limit is that of the chunks, so that each run is read once. Elsewhere it
    only keeps tasks from being too small, and leaves enough of them for every worker.
    """
    sizes = [int(findings.size_bytes[shard.rows].sum()) for shard in shards]
    fair = min(CHUNK_BYTES, 3 * sum(sizes) // (2 * MIN_TASKS))
    groups: list[list[PlannedShard]] = []
    filled = 0
    for shard, size in zip(shards, sizes, strict=True):
        last = groups[-1][-1] if groups else None
        joins = last is not None and (last.source, last.split) == (shard.source, shard.split)
        limit = CHUNK_BYTES if is_sequential[shard.source] else fair
        if joins and filled + size <= limit:
            groups[-1].append(shard)
            filled += size
        else:
            groups.append([shard])
            filled = size
    return [tuple(group) for group in groups]

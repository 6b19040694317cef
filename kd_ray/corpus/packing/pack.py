"""Pack sources into shards: list, scan, plan, write, commit. Packing again does only what is missing.

The scan and the writing are maps over independent tasks, on as many workers as the caller's `Mapper` has; what the
driver keeps of a sample is in `findings`. Images are read twice, once to hash and check them, once into their shard.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from kd_ray.config.corpus import Corpus
from kd_ray.corpus.format import (
    COMMITS,
    CORPUS_NAME,
    FORMAT_VERSION,
    Commit,
    Identity,
    Packing,
    Settings,
    packing_object,
    plan_folder,
    read_identity,
    read_packing,
    scan_folder,
    shard_index,
)
from kd_ray.corpus.packed import PackedCorpus, finished_packings, read_commit
from kd_ray.corpus.packing.findings import Findings, PartSize, gather
from kd_ray.corpus.packing.plan import (
    Packed,
    PlannedShard,
    Verdict,
    class_list,
    group_for_writing,
    judge,
    label_indices,
    plan_shards,
)
from kd_ray.corpus.packing.quarantine import quarantine_object, write_quarantine
from kd_ray.corpus.packing.refusals import (
    refuse_bad,
    refuse_changed_classes,
    refuse_changed_samples,
    refuse_changed_settings,
    refuse_equal_ids,
)
from kd_ray.corpus.packing.scan import Scanner, ScanTask, part_object
from kd_ray.corpus.packing.shard import ShardRef, encode_plan
from kd_ray.corpus.packing.write import ShardWriter, WriteTask, plan_object
from kd_ray.corpus.source import SPLITS
from kd_ray.corpus.sources.opening import NamedSource, description, open_sources
from kd_ray.errors import CorpusError
from kd_ray.storage import Storage, digest_of_json, join, open_storage

T = TypeVar("T")
R = TypeVar("R")
Report = Callable[[int, int], None]
NUM_READERS = 16


class Mapper(Protocol):
    """Where tasks run. Both the work and the tasks pickle; results come in any order."""

    def __call__(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """The result of every task; the first error ends it."""


def here(work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """The `Mapper` of this process: one task after the other."""
    return map(work, tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackResult:
    """What is packed now, and what this packing found; `left_out` counts the quarantine table at `quarantine_uri`."""

    corpus_id: str
    num_packed: int
    num_new: int
    num_duplicates: int
    left_out: dict[str, int]
    quarantine_uri: str | None
    bytes: int
    already_packed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Sources as they were listed now: every extent of each, and the digest of all of it."""

    sources: tuple[NamedSource, ...]
    tasks: tuple[ScanTask, ...]
    digest: str

    @property
    def num_inputs(self) -> int | None:
        """How many inputs there are; None where only a scan can tell."""
        counts = [task.extent.num_inputs for task in self.tasks]
        return None if None in counts else sum(count or 0 for count in counts)


def pack(config: Corpus, *, mapper: Mapper = here, report: Report | None = None) -> PackResult:
    """Bring the corpus at `config.packed_uri` up to date with its sources; `report` gets (inputs handled, of how many).

    Raises:
        CorpusError: nothing usable, too much that is bad, or a change where a corpus may only grow.
        StorageError: a location cannot be read or written.
    """
    return pack_listed(list_sources(config), config, mapper=mapper, report=report)


def find_packed(config: Corpus) -> PackResult | None:
    """What `pack` would give where the sources, as they are listed now, are packed to the end; None where they are not.

    Raises:
        CorpusError: the settings are not those of the corpus at `config.packed_uri`, or too much of it was bad.
    """
    return None if read_identity(open_storage(config.packed_uri)) is None else find_listed(list_sources(config), config)


def find_listed(listed: Listed, config: Corpus) -> PackResult | None:
    """`find_packed` of sources that have been listed."""
    storage = open_storage(config.packed_uri)
    identity = read_identity(storage)
    if identity is None:
        return None
    refuse_changed_settings(identity, _settings(config), where=config.packed_uri)
    return _finished(storage, identity, config, digest=listed.digest)


def list_sources(config: Corpus) -> Listed:
    """List everything once; nothing is read."""
    sources = open_sources(config)
    digest = hashlib.sha256(digest_of_json(description(config)).encode())
    tasks: list[ScanTask] = []
    for number, named in enumerate(sources):
        for extent in named.source.extents():
            digest.update(f"{number} {extent.split} {extent.digest}\n".encode())
            tasks.append(ScanTask(index=len(tasks), source=number, extent=extent))
    return Listed(sources=sources, tasks=tuple(tasks), digest=digest.hexdigest())


def pack_listed(listed: Listed, config: Corpus, *, mapper: Mapper, report: Report | None) -> PackResult:
    """`pack` of sources that have been listed."""
    finished = find_listed(listed, config)
    if finished is not None:
        return finished
    storage, digest = open_storage(config.packed_uri), listed.digest
    settings = _settings(config)
    identity = read_identity(storage)
    sources = tuple(named.source for named in listed.sources)
    progress = _Progress(report, num_inputs=listed.num_inputs)
    sizes = _scan(listed, config, storage=storage, mapper=mapper, progress=progress)
    findings = _gather(storage, listed, sizes)
    classes = class_list(
        [source.class_names() for source in sources], findings.label_names, config.label_map, where=config.packed_uri
    )
    verdict = judge(findings, label_indices(findings.label_names, classes, config.label_map))
    write_quarantine(storage, findings, verdict, listing_digest=digest)
    packing = _packing(findings, verdict, digest)
    _refuse_bad(packing, config)
    if identity is not None:
        refuse_changed_classes(identity, classes, where=config.packed_uri)
    before = _before(storage, identity, digest=digest)
    packed = _packed(before)
    refuse_changed_samples(findings, verdict, packed, where=config.packed_uri)
    refuse_equal_ids(findings, verdict, packed, where=config.packed_uri)
    shards = plan_shards(
        findings,
        verdict,
        settings=settings,
        packed=packed,
        next_index={split: _next_index(before, split) for split in SPLITS},
        is_sequential=[source.is_sequential for source in sources],
    )
    if not shards and before is None:
        raise CorpusError(
            f"{', '.join(source.uri for source in sources)}: none of the {len(findings):,} inputs can be used: "
            f"{told(packing.left_out)}. Check corpus.uri."
        )
    if identity is None:
        identity = _create_identity(
            storage,
            Identity.of(settings, classes=classes, shard_digests=[shard.digest for shard in shards]),
            where=config.packed_uri,
        )
    num_new = sum(len(shard.rows) for shard in shards)
    tasks = _write_plans(storage, shards, findings, verdict, listed=listed)
    del findings, verdict, shards
    writer = ShardWriter(
        sources=sources,
        storage_uri=config.packed_uri,
        plan_folder=plan_folder(digest),
        row_group_size=config.row_group_size,
        reencode=config.reencode,
        listing_digest=digest,
    )
    progress.expect(num_new)
    for written in mapper(writer, tasks):
        progress.add(written.num_samples)
    return _finish(storage, identity, packing, num_new=num_new)


def told(left_out: dict[str, int]) -> str:
    """Counts by reason, for people."""
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "nothing left out"


class _Progress:
    """Inputs handled, of those to be scanned and then written."""

    def __init__(self, report: Report | None, *, num_inputs: int | None) -> None:
        self._report = report
        self._done = 0
        self._total = None if num_inputs is None else 2 * num_inputs

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._report is not None:
            self._report(self._done, max(self._total or 0, self._done))

    def expect(self, count: int) -> None:
        """So many are to come."""
        self._total = self._done + count


def _scan(listed: Listed, config: Corpus, *, storage: Storage, mapper: Mapper, progress: _Progress) -> list[PartSize]:
    scanner = Scanner(
        sources=tuple(named.source for named in listed.sources),
        storage_uri=storage.uri,
        folder=scan_folder(listed.digest),
        split=config.split,
        resolution_filter=config.native_resolution_filter,
    )
    sizes = []
    for size in mapper(scanner, listed.tasks):
        sizes.append(size)
        progress.add(size.num_rows)
    return sorted(sizes, key=lambda size: size.index)


def _gather(storage: Storage, listed: Listed, sizes: Sequence[PartSize]) -> Findings:
    folder = scan_folder(listed.digest)

    def parts() -> Iterable[tuple[int, bytes]]:
        names = [part_object(folder, size.index) for size in sizes]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for size, data in zip(sizes, pool.map(storage.read, names), strict=True):
                yield listed.tasks[size.index].source, data

    return gather(parts(), sizes)


def _packing(findings: Findings, verdict: Verdict, digest: str) -> Packing:
    bad = verdict.bad()
    left_out = verdict.left_out()
    return Packing(
        listing_digest=digest,
        num_inputs=len(findings) - left_out.get("other_type", 0),
        num_bytes=int(findings.size_bytes.sum()),
        num_duplicates=verdict.num_duplicates,
        left_out=left_out,
        num_bad=int(bad.sum()),
        num_bad_bytes=int(findings.size_bytes[bad].sum()),
        commits=(),
    )


def _refuse_bad(packing: Packing, config: Corpus) -> None:
    table = join(config.packed_uri, quarantine_object(packing.listing_digest))
    refuse_bad(
        num_bad=packing.num_bad,
        num_inputs=packing.num_inputs,
        num_bad_bytes=packing.num_bad_bytes,
        num_bytes=packing.num_bytes,
        max_fraction=config.max_bad_fraction,
        told=f"{table} ({told(packing.left_out)})",
    )


def _settings(config: Corpus) -> Settings:
    return Settings(
        format_version=FORMAT_VERSION,
        row_group_size=config.row_group_size,
        shard_row_groups=config.shard_row_groups,
        seed=config.seed,
        split=config.split.model_dump(mode="json"),
        native_resolution_filter=config.native_resolution_filter.model_dump(mode="json"),
        reencode=None if config.reencode is None else config.reencode.model_dump(mode="json"),
        label_map=dict(config.label_map),
    )


def _before(storage: Storage, identity: Identity | None, *, digest: str) -> PackedCorpus | None:
    """What was there before this packing began, were it killed and started again: its own commits do not count."""
    if identity is None:
        return None
    commits = {commit.shard: commit for packing in finished_packings(storage) for commit in packing.commits}
    for commit in _all_commits(storage, known=commits):
        if commit.listing_digest != digest:
            commits[commit.shard] = commit
    if not commits:
        return None
    return PackedCorpus(storage.uri, identity, tuple(commits[name] for name in sorted(commits)))


def _all_commits(storage: Storage, *, known: Iterable[str]) -> list[Commit]:
    """Commits that no finished packing has folded."""
    folded = set(known)
    names = [name.removeprefix(f"{COMMITS}/").removesuffix(".json") for name in storage.list(COMMITS)]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return list(pool.map(lambda name: read_commit(storage, name), [name for name in names if name not in folded]))


def _packed(before: PackedCorpus | None) -> Packed:
    if before is None:
        return Packed(
            sample_ids=np.empty(0, np.uint64),
            sha256=np.empty((0, 32), np.uint8),
            labels=np.empty(0, np.int32),
            splits=np.empty(0, np.int8),
        )
    members = [before.members(split) for split in SPLITS]
    ids = np.concatenate([each.sample_ids for each in members])
    order = np.argsort(ids, kind="stable")
    splits = [np.full(len(each.sample_ids), number, np.int8) for number, each in enumerate(members)]
    return Packed(
        sample_ids=ids[order],
        sha256=np.concatenate([each.sha256 for each in members])[order],
        labels=np.concatenate([each.labels for each in members])[order],
        splits=np.concatenate(splits)[order],
    )


def _next_index(before: PackedCorpus | None, split: str) -> int:
    names = [] if before is None else [commit.shard for commit in before.commits if commit.split == split]
    return max(map(shard_index, names), default=-1) + 1


def _create_identity(storage: Storage, identity: Identity, *, where: str) -> Identity:
    """Fix the identity; of two first packings at once the first one names the corpus."""
    if storage.create(CORPUS_NAME, identity.to_json()):
        return identity
    winner = read_identity(storage)
    assert winner is not None, "created by another packing a moment ago"
    refuse_changed_settings(winner, identity.settings, where=where)
    refuse_changed_classes(winner, identity.classes, where=where)
    return winner


def _write_plans(
    storage: Storage, shards: Sequence[PlannedShard], findings: Findings, verdict: Verdict, *, listed: Listed
) -> list[WriteTask]:
    folder = plan_folder(listed.digest)
    with ThreadPoolExecutor(NUM_READERS) as pool:  # each waits for the disk, or for the server
        for _ in pool.map(
            lambda shard: storage.write(plan_object(folder, shard.name), encode_plan(shard, findings, verdict)), shards
        ):
            pass
    sequential = [named.source.is_sequential for named in listed.sources]
    return [
        WriteTask(
            source=group[0].source,
            shards=tuple(
                ShardRef(
                    name=shard.name,
                    source=listed.sources[shard.source].name,
                    split=shard.split,
                    digest=shard.digest,
                )
                for shard in group
            ),
        )
        for group in group_for_writing(shards, findings, is_sequential=sequential)
    ]


def _finish(storage: Storage, identity: Identity, packing: Packing, *, num_new: int) -> PackResult:
    """The record that makes the packing count, with the commits that no earlier record has; then the notes go."""
    folded = {commit.shard for each in finished_packings(storage) for commit in each.commits}
    commits = tuple(_all_commits(storage, known=folded))
    fields = {name: getattr(packing, name) for name in Packing.__dataclass_fields__}
    packing = Packing(**{**fields, "commits": commits})
    storage.write(packing_object(packing.listing_digest), packing.to_json())
    storage.remove(scan_folder(packing.listing_digest))
    storage.remove(plan_folder(packing.listing_digest))
    return _result(storage, identity, packing, num_new=num_new, already_packed=False)


def _finished(storage: Storage, identity: Identity, config: Corpus, *, digest: str) -> PackResult | None:
    packing = read_packing(storage, digest)
    if packing is None:
        return None
    _refuse_bad(packing, config)
    return _result(storage, identity, packing, num_new=0, already_packed=True)


def _result(
    storage: Storage, identity: Identity, packing: Packing, *, num_new: int, already_packed: bool
) -> PackResult:
    commits = [commit for each in finished_packings(storage) for commit in each.commits]
    return PackResult(
        corpus_id=identity.corpus_id,
        num_packed=sum(sum(commit.rows_per_group) for commit in commits),
        num_new=num_new,
        num_duplicates=packing.num_duplicates,
        left_out=packing.left_out,
        quarantine_uri=join(storage.uri, quarantine_object(packing.listing_digest)) if packing.left_out else None,
        bytes=sum(commit.size_bytes for commit in commits),
        already_packed=already_packed,
    )

"""Pack sources into shards: list, scan, plan, write, commit. Packing again does only what is missing.

The scan and the writing are maps over independent tasks, on as many workers as the caller's `Mapper` has; what the
driver keeps of a sample is in `findings`. Images are read twice, once to hash and check them, once into their shard.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from kd_ray.config.corpus import Corpus
from kd_ray.corpus.format import (
    CORPUS_NAME,
    FORMAT_VERSION,
    Commit,
    Identity,
    Packing,
    Settings,
    plan_folder,
    read_identity,
    scan_folder,
)
from kd_ray.corpus.packed import Members, PackedCorpus
from kd_ray.corpus.packing.findings import REASONS, Findings, PartSize, gather
from kd_ray.corpus.packing.history import History, finish, numbering, read_history
from kd_ray.corpus.packing.known import find_known
from kd_ray.corpus.packing.plan import (
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
    refuse_changed_samples,
    refuse_changed_settings,
    refuse_reordered_classes,
)
from kd_ray.corpus.packing.scan import Scanner, ScanTask, part_object
from kd_ray.corpus.packing.shard import ShardRef, encode_plan
from kd_ray.corpus.packing.write import ShardWriter, WriteTask, plan_object
from kd_ray.corpus.sources.files import read_ahead
from kd_ray.corpus.sources.opening import NamedSource, description, open_sources
from kd_ray.errors import CorpusError, StorageError
from kd_ray.storage import Storage, digest_of_json, join, open_storage, redacted

T = TypeVar("T")
R = TypeVar("R")
Report = Callable[[int, int], None]
NUM_DRIVER_THREADS = 4  # each more costs the driver some MiB of memory


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
    class_names: tuple[tuple[str, ...], ...]
    tasks: tuple[ScanTask, ...]
    digest: str

    def without_payloads(self) -> "Listed":
        """The same without what only a scan needs: 5 bytes and more a file."""
        bare = (replace(task, extent=replace(task.extent, payload=b"")) for task in self.tasks)
        return replace(self, tasks=tuple(bare))

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
    storage = open_storage(config.packed_uri)
    return None if read_identity(storage) is None else _find(storage, list_sources(config), config)


def find_listed(listed: Listed, config: Corpus) -> PackResult | None:
    """`find_packed` of sources that have been listed; the notes of a packing that was killed at its very end go."""
    storage = open_storage(config.packed_uri)
    found = _find(storage, listed, config)
    if found is not None:
        # they only take space: no reason to stop where the corpus may just be read, or another removes them, too
        with suppress(StorageError, FileNotFoundError):
            _remove_left_notes(storage, listed.digest)
    return found


def _find(storage: Storage, listed: Listed, config: Corpus) -> PackResult | None:
    identity = read_identity(storage)
    if identity is None:
        return None
    refuse_changed_settings(identity, _settings(config), where=config.packed_uri)
    return _finished(storage, identity, config, digest=listed.digest)


def list_sources(config: Corpus) -> Listed:
    """List everything once; nothing is read but what declares the classes."""
    sources = open_sources(config)
    class_names = tuple(named.source.class_names() for named in sources)
    described = {"corpus": description(config), "classes": [list(names) for names in class_names]}
    digest = hashlib.sha256(digest_of_json(described).encode())
    tasks: list[ScanTask] = []
    for number, named in enumerate(sources):
        for extent in named.source.extents():
            digest.update(f"{number} {extent.split} {extent.digest}\n".encode())
            tasks.append(ScanTask(index=len(tasks), source=number, extent=extent))
    return Listed(sources=sources, class_names=class_names, tasks=tuple(tasks), digest=digest.hexdigest())


def pack_listed(listed: Listed, config: Corpus, *, mapper: Mapper, report: Report | None) -> PackResult:
    """`pack` of sources that have been listed."""
    finished = find_listed(listed, config)
    if finished is not None:
        return finished
    storage = open_storage(config.packed_uri)
    try:
        return _pack(listed, config, storage=storage, mapper=mapper, report=report)
    except CorpusError:
        # what was scanned and planned led here: once the cause is mended, it must be looked at again
        _remove_notes(storage, listed.digest)
        raise


def _pack(listed: Listed, config: Corpus, *, storage: Storage, mapper: Mapper, report: Report | None) -> PackResult:
    digest, settings = listed.digest, _settings(config)
    sources = tuple(named.source for named in listed.sources)
    progress = _Progress(report, num_inputs=listed.num_inputs)
    sizes = _scan(listed, config, storage=storage, mapper=mapper, progress=progress)
    listed = listed.without_payloads()
    findings = _gather(storage, listed, sizes)
    identity, history = read_identity(storage), read_history(storage)
    before = history.classes(identity)
    refuse_reordered_classes(before, listed.class_names, config.label_map, where=config.packed_uri)
    classes = class_list(
        listed.class_names, findings.label_names, config.label_map, before=before, where=config.packed_uri
    )
    verdict = judge(findings, label_indices(findings.label_names, classes, config.label_map))
    names = [named.name for named in listed.sources]
    write_quarantine(storage, findings, verdict, listing_digest=digest, sources=names)
    packing = _packing(findings, verdict, digest, classes=classes)
    _refuse_bad(packing, config)
    packed = () if identity is None else _packed(history.corpus(storage, identity))
    known = find_known(findings, verdict, packed, where=config.packed_uri)
    refuse_changed_samples(findings, verdict, known, where=config.packed_uri)
    planned = plan_shards(
        findings,
        verdict,
        settings=settings,
        is_packed=known.is_packed,
        next_index=numbering(storage, plan_folder(digest), history, listing_digest=digest),
        is_sequential=[source.is_sequential for source in sources],
    )
    if not planned and not history.packings:
        raise CorpusError(
            f"{', '.join(redacted(source.uri) for source in sources)}: none of the {len(findings):,} inputs can be "
            f"used: {told(packing.left_out)}. Check corpus.uri."
        )
    if identity is None:
        identity = _create_identity(
            storage,
            Identity.of(settings, classes=classes, shard_digests=[shard.digest for shard in planned]),
            where=config.packed_uri,
        )
    num_new = sum(len(shard.rows) for shard in planned)
    tasks = _write_plans(storage, planned, findings, verdict, listed=listed)
    del findings, verdict, planned, known
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
    finish(storage, packing, [shard for task in tasks for shard in task.shards], history)
    _remove_notes(storage, digest)
    return _result(storage, identity, packing, read_history(storage), num_new=num_new, already_packed=False)


def _remove_notes(storage: Storage, digest: str) -> None:
    """Remove what was scanned, then what was planned: as long as any of it is there, the plans are."""
    storage.remove(scan_folder(digest))
    storage.remove(plan_folder(digest))


def _remove_left_notes(storage: Storage, digest: str) -> None:
    plans, _, name = plan_folder(digest).rpartition("/")
    if name in storage.folders(plans):  # one request, where removing what is not there takes several
        _remove_notes(storage, digest)


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
        reencode=config.reencode,
    )
    sizes = []
    for size in mapper(scanner, listed.tasks):
        sizes.append(size)
        progress.add(size.num_rows)
    return sorted(sizes, key=lambda size: size.index)


def _gather(storage: Storage, listed: Listed, sizes: Sequence[PartSize]) -> Findings:
    folder = scan_folder(listed.digest)

    parts = read_ahead(
        lambda size: storage.read(part_object(folder, size.index)), sizes, num_readers=NUM_DRIVER_THREADS
    )
    return gather(((listed.tasks[size.index].source, data) for size, data in parts), sizes)


def _packing(findings: Findings, verdict: Verdict, digest: str, *, classes: tuple[str, ...]) -> Packing:
    bad = verdict.bad()
    claims_to_be_an_image = verdict.reason != REASONS.index("other_type")
    return Packing(
        listing_digest=digest,
        classes=classes,
        num_inputs=int(claims_to_be_an_image.sum()),
        num_bytes=int(findings.size_bytes[claims_to_be_an_image].sum()),
        num_duplicates=verdict.num_duplicates,
        left_out=verdict.left_out(),
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


def _packed(corpus: PackedCorpus) -> Iterator[tuple[Commit, Members]]:
    """All packed samples, a shard at a time."""
    yield from read_ahead(
        lambda commit: corpus.shard_members(commit.shard), corpus.commits, num_readers=NUM_DRIVER_THREADS
    )


def _create_identity(storage: Storage, identity: Identity, *, where: str) -> Identity:
    """Fix the identity; of two first packings at once the first one names the corpus."""
    if storage.create(CORPUS_NAME, identity.to_json()):
        return identity
    winner = read_identity(storage)
    assert winner is not None, "created by another packing a moment ago"
    refuse_changed_settings(winner, identity.settings, where=where)
    if winner.classes != identity.classes:
        raise CorpusError(
            f"{where}: another first packing with other classes began at the same time. Run the same command again."
        )
    return winner


def _write_plans(
    storage: Storage, shards: Sequence[PlannedShard], findings: Findings, verdict: Verdict, *, listed: Listed
) -> list[WriteTask]:
    folder = plan_folder(listed.digest)
    with ThreadPoolExecutor(NUM_DRIVER_THREADS) as pool:  # each waits for the disk, or for the server
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
                    annotations=shard.annotations,
                )
                for shard in group
            ),
        )
        for group in group_for_writing(shards, findings, is_sequential=sequential)
    ]


def _finished(storage: Storage, identity: Identity, config: Corpus, *, digest: str) -> PackResult | None:
    history = read_history(storage)
    packing = history.find(digest)
    if packing is None:
        return None
    _refuse_bad(packing, config)
    return _result(storage, identity, packing, history, num_new=0, already_packed=True)


def _result(
    storage: Storage, identity: Identity, packing: Packing, history: History, *, num_new: int, already_packed: bool
) -> PackResult:
    commits = [commit for each in history.packings for commit in each.commits]
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

"""Pack a source into shards: scan and plan, write what is missing, commit shard by shard. Packing again continues.

The scan keeps only hashes, labels and locations, at most 0.7 kB a sample; images are read a second time when their
shard is written, so that one shard is the most that is held.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kd_ray.config.corpus import Corpus, HashSplit, Split
from kd_ray.corpus.decode import BadImage, decode
from kd_ray.corpus.format import (
    CORPUS_NAME,
    FORMAT_VERSION,
    Identity,
    Packing,
    Settings,
    commit_object,
    packing_object,
    read_identity,
    read_packing,
    shard_object,
)
from kd_ray.corpus.packed import PackedCorpus, committed, read_commit
from kd_ray.corpus.plan import (
    SPLITS,
    Finding,
    Packed,
    PlannedShard,
    Verdict,
    judge,
    plan_shards,
    refuse_bad,
    refuse_changed_samples,
    refuse_changed_settings,
    refuse_equal_ids,
    split_of,
)
from kd_ray.corpus.quarantine import quarantine_object, write_quarantine
from kd_ray.corpus.shard import encode_shard
from kd_ray.corpus.source import BATCH_SIZE, Sample, Source, in_batches
from kd_ray.corpus.sources import listing_digest, open_source
from kd_ray.errors import CorpusError
from kd_ray.storage import Storage, join, open_storage

NUM_DECODERS = 4
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackResult:
    """What is packed now, and what this call found; `num_bad` are in quarantine, `bytes` are those of all shards."""

    corpus_id: str
    num_packed: int
    num_new: int
    num_duplicates: int
    num_bad: int
    num_other_files: int
    bytes: int
    already_packed: bool


def pack(config: Corpus, *, report: Report | None = None) -> PackResult:
    """Bring the corpus at `config.packed_uri` up to date with its source; `report` gets (images read, of how many).

    Raises:
        CorpusError: the source has nothing usable, too much that is bad, or has changed where a corpus may only grow.
    """
    return pack_source(open_source(config), config, storage=open_storage(config.packed_uri), report=report)


def find_packed(config: Corpus) -> PackResult | None:
    """What `pack` would give where the source, as it is listed now, has been packed to the end; None where it has not.

    Raises:
        CorpusError: the settings are not those of the corpus at `config.packed_uri`, or too much of it was bad.
    """
    return _finished_packing(open_source(config), config, storage=open_storage(config.packed_uri))


def pack_source(source: Source, config: Corpus, *, storage: Storage, report: Report | None) -> PackResult:
    """`pack` with the source and the storage given."""
    finished = _finished_packing(source, config, storage=storage)
    if finished is not None:
        return finished
    settings = _settings(config, source.classes)
    digest = listing_digest(source, config)
    identity = read_identity(storage)
    before = None if identity is None else committed(storage, identity)
    packed = {} if before is None else _packed(before)
    findings = list(_scan(source, config.split, known=packed.keys(), report=report))
    verdict = judge(findings)
    packing = _packing(verdict, digest, num_scanned=len(findings), num_other_files=source.num_other_files)
    write_quarantine(storage, verdict.quarantined, listing_digest=digest)
    _refuse_bad(packing, config)
    refuse_changed_samples(verdict, findings, packed, where=config.packed_uri)
    new = [finding for finding in verdict.kept if finding.sha256 not in packed]
    refuse_equal_ids([*packed, *(finding.sha256 for finding in new)], where=source.uri)
    if not packed and not new:
        raise CorpusError(f"{source.uri}: none of its {len(findings)} images can be used. Check corpus.uri.")

    num_shards = {split: len(before.shards(split)) if before else 0 for split in SPLITS}
    shards = plan_shards(new, settings=settings, num_shards=num_shards)
    if identity is None:
        hashes = [sample.sha256 for shard in shards for sample in shard.samples]
        identity = _create_identity(storage, Identity.of(settings, hashes), where=config.packed_uri)
    num_read = len(findings)
    for shard in shards:
        _write_shard(source, shard, storage=storage, settings=settings, digest=digest)
        num_read += len(shard.samples)
        if report is not None:
            report(num_read, len(findings) + len(new))
    storage.write(packing_object(digest), packing.to_json())
    return _result(committed(storage, identity), packing, num_new=len(new), already_packed=False)


def _finished_packing(source: Source, config: Corpus, *, storage: Storage) -> PackResult | None:
    identity = read_identity(storage)
    if identity is None:
        return None
    refuse_changed_settings(identity, _settings(config, source.classes), where=config.packed_uri)
    packing = read_packing(storage, listing_digest(source, config))
    if packing is None:
        return None
    _refuse_bad(packing, config)
    return _result(committed(storage, identity), packing, num_new=0, already_packed=True)


def _settings(config: Corpus, classes: tuple[str, ...]) -> Settings:
    return Settings(
        format_version=FORMAT_VERSION,
        row_group_size=config.row_group_size,
        shard_row_groups=config.shard_row_groups,
        seed=config.seed,
        classes=classes,
        split=config.split.model_dump(mode="json"),
    )


def _packed(corpus: PackedCorpus) -> dict[bytes, Packed]:
    packed = {}
    for split in SPLITS:
        members = corpus.members(split)
        for sha256, label in zip(members.sha256, members.labels.tolist(), strict=True):
            packed[sha256.tobytes()] = Packed(split=split, label=None if label < 0 else label)
    return packed


def _scan(source: Source, split: Split, *, known: Collection[bytes], report: Report | None) -> Iterator[Finding]:
    """Hash every image, and decode those that are not packed yet."""
    num_read = 0
    with ThreadPoolExecutor(NUM_DECODERS) as pool:
        for batch in in_batches(source.samples(), BATCH_SIZE):
            yield from pool.map(lambda sample: _examine(sample, split, known=known), batch)
            num_read += len(batch)
            if report is not None:
                report(num_read, source.num_samples)


def _examine(sample: Sample, split: Split, *, known: Collection[bytes]) -> Finding:
    sha256 = hashlib.sha256(sample.data).digest()
    split_name = split_of(sha256, split) if isinstance(split, HashSplit) else sample.split
    assert split_name is not None, "a source with paths as splits names the split of every sample"
    size_px, bad = None, None
    if sha256 not in known:
        try:
            height, width, _ = decode(sample.data).shape
            size_px = (height, width)
        except BadImage as error:
            bad = error.reason
    return Finding(
        location=sample.location,
        split=split_name,
        label=sample.label,
        sha256=sha256,
        size_bytes=len(sample.data),
        size_px=size_px,
        bad=bad,
    )


def _packing(verdict: Verdict, digest: str, *, num_scanned: int, num_other_files: int) -> Packing:
    return Packing(
        listing_digest=digest,
        num_scanned=num_scanned,
        num_duplicates=verdict.num_duplicates,
        num_bad_per_reason=verdict.num_bad_per_reason(),
        num_other_files=num_other_files,
    )


def _refuse_bad(packing: Packing, config: Corpus) -> None:
    refuse_bad(
        packing.num_bad_per_reason,
        num_scanned=packing.num_scanned,
        max_fraction=config.max_bad_fraction,
        where=join(config.packed_uri, quarantine_object(packing.listing_digest)),
    )


def _create_identity(storage: Storage, identity: Identity, *, where: str) -> Identity:
    """Fix the identity; of two first packings at once the first one names the corpus."""
    if storage.create(CORPUS_NAME, identity.to_json()):
        return identity
    winner = read_identity(storage)
    assert winner is not None, "created by another packing a moment ago"
    refuse_changed_settings(winner, identity.settings, where=where)
    return winner


def _write_shard(source: Source, shard: PlannedShard, *, storage: Storage, settings: Settings, digest: str) -> None:
    images = dict(source.read([sample.location for sample in shard.samples]))
    for sample in shard.samples:
        if hashlib.sha256(images.get(sample.location, b"")).digest() != sample.sha256:
            raise CorpusError(
                f"{join(source.uri, sample.location)}: changed while it was being packed. "
                "Let the source rest, then pack again; what is committed stays."
            )
    data, commit = encode_shard(shard, images, row_group_size=settings.row_group_size, listing_digest=digest)
    storage.write(shard_object(shard.name), data)
    if not storage.create(commit_object(shard.name), commit.to_json()):
        winner = read_commit(storage, shard.name)
        if winner.sha256 != commit.sha256:
            raise CorpusError(
                f"{join(storage.uri, shard_object(shard.name))}: two packings of different sources wrote this shard at "
                "the same time. Pack to a new packed_uri, one packing at a time."
            )


def _result(corpus: PackedCorpus, packing: Packing, *, num_new: int, already_packed: bool) -> PackResult:
    return PackResult(
        corpus_id=corpus.corpus_id,
        num_packed=sum(corpus.num_samples(split) for split in SPLITS),
        num_new=num_new,
        num_duplicates=packing.num_duplicates,
        num_bad=sum(packing.num_bad_per_reason.values()),
        num_other_files=packing.num_other_files,
        bytes=sum(commit.size_bytes for commit in corpus.commits),
        already_packed=already_packed,
    )

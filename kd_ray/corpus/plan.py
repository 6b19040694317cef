"""Which samples a packing keeps, in which order and in which shards: pure functions of what the scan found."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kd_ray.config.corpus import HashSplit
from kd_ray.corpus.format import Identity, Settings, sample_id_of, shard_name
from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError

SPLITS: tuple[SplitName, ...] = ("train", "test")
NEW_URI = "pack to a new packed_uri"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One source image after the scan: what is kept of it in memory. `bad` is the reason why it is unreadable.

    `size_px` is (height, width), upright; None where the pixels were not decoded.
    """

    location: str
    split: SplitName
    label: int | None
    sha256: bytes
    size_bytes: int
    size_px: tuple[int, int] | None
    bad: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What the corpus already says of one sample."""

    split: SplitName
    label: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One source image that is left out, and why."""

    source: str
    reason: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One finding per distinct sample, what is left out, and how many equal copies were dropped."""

    kept: tuple[Finding, ...]
    quarantined: tuple[Quarantined, ...]
    num_duplicates: int

    def num_bad_per_reason(self) -> dict[str, int]:
        """Sorted by reason."""
        return dict(sorted(Counter(row.reason for row in self.quarantined).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A shard to be written: its samples in order."""

    name: str
    split: SplitName
    samples: tuple[Finding, ...]


def split_of(sha256: bytes, split: HashSplit) -> SplitName:
    """The split of a sample by its content alone."""
    draw = int.from_bytes(hashlib.sha256(b"split" + sha256).digest()[:8], "big")
    return "test" if draw / 2**64 < split.test_fraction else "train"


def order_key(sha256: bytes, *, seed: int) -> bytes:
    """Sorting by this gives a pseudo-random order that needs no stream of random numbers."""
    return hashlib.blake2b(sha256, key=str(seed).encode()[:64], digest_size=16).digest()


def judge(findings: Iterable[Finding]) -> Verdict:
    """Decide between copies: conflicting labels leave none, test goes before train, else the first location stays."""
    copies_of: dict[bytes, list[Finding]] = defaultdict(list)
    for finding in sorted(findings, key=lambda finding: finding.location):
        copies_of[finding.sha256].append(finding)
    kept: list[Finding] = []
    quarantined: list[Quarantined] = []
    num_duplicates = 0
    for copies in copies_of.values():
        stays, reasons = _judge_copies(copies)
        if stays is not None:
            kept.append(stays)
        quarantined += [
            Quarantined(source=copy.location, reason=reason, bytes=copy.size_bytes) for copy, reason in reasons
        ]
        num_duplicates += len(copies) - len(reasons) - (stays is not None)
    return Verdict(
        kept=tuple(kept),
        quarantined=tuple(sorted(quarantined, key=lambda row: row.source)),
        num_duplicates=num_duplicates,
    )


def _judge_copies(copies: Sequence[Finding]) -> tuple[Finding | None, list[tuple[Finding, str]]]:
    """What stays of equal copies, and the reasons of those that go to quarantine; a missing label is no conflict."""
    if copies[0].bad is not None:
        return None, [(copy, copies[0].bad) for copy in copies]
    labels = {copy.label for copy in copies} - {None}
    if len(labels) > 1:
        return None, [(copy, "conflicting_labels") for copy in copies]
    label = next(iter(labels), None)
    in_test = [copy for copy in copies if copy.split == "test"]
    leaking = [(copy, "duplicate_of_test") for copy in copies if in_test and copy.split == "train"]
    return replace((in_test or copies)[0], label=label), leaking


def plan_shards(
    kept: Iterable[Finding], *, settings: Settings, num_shards: Mapping[SplitName, int]
) -> list[PlannedShard]:
    """Cut the samples that are not packed yet into shards that follow the `num_shards` existing ones of each split."""
    per_shard = settings.row_group_size * settings.shard_row_groups
    ordered = sorted(kept, key=lambda finding: order_key(finding.sha256, seed=settings.seed))
    shards: list[PlannedShard] = []
    for split in SPLITS:
        samples = [finding for finding in ordered if finding.split == split]
        for number, start in enumerate(range(0, len(samples), per_shard), start=num_shards.get(split, 0)):
            chosen = tuple(samples[start : start + per_shard])
            shards.append(PlannedShard(name=shard_name(split, number), split=split, samples=chosen))
    return shards


def refuse_changed_settings(identity: Identity, settings: Settings, *, where: str) -> None:
    """Raise CorpusError naming the first setting that differs from the packed corpus."""
    for name in Settings.__dataclass_fields__:
        old, new = getattr(identity.settings, name), getattr(settings, name)
        if old != new:
            raise CorpusError(
                f"{where}: was packed with corpus.{name} {_short(old)}, this recipe has {_short(new)}. "
                f"Restore the old value, or {NEW_URI}."
            )


def refuse_changed_samples(
    verdict: Verdict, findings: Iterable[Finding], packed: Mapping[bytes, Packed], *, where: str
) -> None:
    """Raise CorpusError where the source now says something else of a sample that is packed already."""
    kept = {finding.sha256: finding for finding in verdict.kept}
    changes = []
    for finding in findings:
        old, now = packed.get(finding.sha256), kept.get(finding.sha256)
        if old is None:
            continue
        if now is None:
            changes.append(f"{finding.location} has copies with conflicting labels, packed with label {old.label}")
        elif now.label != old.label and now.location == finding.location:
            changes.append(f"{finding.location} has label {now.label}, packed with label {old.label}")
        elif now.split != old.split and now.location == finding.location:
            changes.append(f"{finding.location} is in {now.split}, packed in {old.split}")
    if changes:
        raise CorpusError(
            f"{where}: {len(changes)} packed samples have changed in the source; the first: {changes[0]}. A corpus "
            f"only grows: restore what was packed, or {NEW_URI}."
        )


def refuse_equal_ids(hashes: Iterable[bytes], *, where: str) -> None:
    """Raise CorpusError where two different images have the same 64-bit sample_id."""
    seen: dict[int, bytes] = {}
    for sha256 in hashes:
        other = seen.setdefault(sample_id_of(sha256), sha256)
        if other != sha256:
            raise CorpusError(
                f"{where}: two images share a sample_id (SHA-256 {other.hex()} and {sha256.hex()}). "
                "Remove one of them from the source."
            )


def refuse_bad(num_bad_per_reason: Mapping[str, int], *, num_scanned: int, max_fraction: float, where: str) -> None:
    """Raise CorpusError where more than `max_fraction` of what was scanned is in quarantine; `where` is its table."""
    num_bad = sum(num_bad_per_reason.values())
    if num_bad > max_fraction * num_scanned:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(num_bad_per_reason.items()))
        raise CorpusError(
            f"{where}: {num_bad:,} of {num_scanned:,} images cannot be used ({counts}), at most "
            f"{max_fraction:.2%} may be. The table names each; repair the source, or raise corpus.max_bad_fraction."
        )


def _short(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 160 else f"{text[:157]}..."

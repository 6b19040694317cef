"""What a packing refuses, each with what to do: pure functions of what the scan found and of what is packed."""

from collections.abc import Mapping, Sequence

import numpy as np

from kd_ray.corpus.format import Identity, Settings
from kd_ray.corpus.packing.findings import NO_NAME, Findings
from kd_ray.corpus.packing.known import Known
from kd_ray.corpus.packing.plan import Verdict, mapped_names
from kd_ray.corpus.packing.text import shortened
from kd_ray.corpus.source import SPLITS
from kd_ray.errors import CorpusError

NEW_URI = "pack to a new packed_uri"


def refuse_changed_settings(identity: Identity, settings: Settings, *, where: str) -> None:
    """Raise CorpusError naming the first setting that differs from the packed corpus."""
    for name in Settings.__dataclass_fields__:
        _refuse_changed(name, getattr(identity.settings, name), getattr(settings, name), where=where)


def refuse_reordered_classes(
    packed: Sequence[str], declared: Sequence[Sequence[str]], label_map: Mapping[str, str | None], *, where: str
) -> None:
    """Raise CorpusError where a source declares packed classes in another order: its numbers would mean others."""
    for names in (mapped_names(each, label_map) for each in declared):
        kept = [name for name in packed if name in names]
        if kept != [name for name in names if name in packed]:
            raise CorpusError(
                f"{where}: was packed with the classes {shortened(packed)}, a source now declares {shortened(names)}. "
                f"Restore the order; new classes go to the end. Or {NEW_URI}."
            )


def _refuse_changed(name: str, old: object, new: object, *, where: str) -> None:
    if old != new:
        raise CorpusError(
            f"{where}: was packed with corpus.{name} {shortened(old)}, this recipe has {shortened(new)}. "
            f"Restore the old value, or {NEW_URI}."
        )


def refuse_changed_samples(findings: Findings, verdict: Verdict, known: Known, *, where: str) -> None:
    """Raise CorpusError where the source now says something else of a sample that is packed already.

    Copies that now disagree with each other are in quarantine, and the packed sample stays as it is.
    """
    relabelled = known.is_packed & (verdict.label != known.label)
    changed = np.flatnonzero(relabelled | (known.is_packed & (findings.split != known.split)))
    if not len(changed):
        _refuse_reannotated(findings, known, where=where)
        return
    row = int(changed[0])
    if relabelled[row]:
        told = f"has label {_label(verdict.label[row])}, packed with label {_label(known.label[row])}"
    else:
        told = f"is in {SPLITS[findings.split[row]]}, packed in {SPLITS[known.split[row]]}"
    raise CorpusError(
        f"{where}: {len(changed)} packed samples have changed in the source; the first: {findings.where(row)} {told}. "
        f"A corpus only grows: restore what was packed, give new labels by corpus.overrides_uri, or {NEW_URI}."
    )


def _refuse_reannotated(findings: Findings, known: Known, *, where: str) -> None:
    rows = np.flatnonzero(known.is_reannotated)
    if len(rows):
        raise CorpusError(
            f"{where}: masks, boxes or polygons have changed in the source, of at least one of {len(rows):,} packed "
            f"samples that share a shard with {findings.where(int(rows[0]))}. A corpus only grows: restore what was "
            f"packed, give new ones by corpus.overrides_uri, or {NEW_URI}."
        )


def refuse_bad(
    *, num_bad: int, num_inputs: int, num_bad_bytes: int, num_bytes: int, max_fraction: float, told: str
) -> None:
    """Raise CorpusError where more than `max_fraction` of the inputs, or of their bytes, is in quarantine.

    `told` is the table and its counts, for the message.
    """
    if num_bad > max_fraction * num_inputs or num_bad_bytes > max_fraction * num_bytes:
        raise CorpusError(
            f"{told}: {num_bad:,} of {num_inputs:,} inputs cannot be used ({num_bad_bytes:,} of {num_bytes:,} bytes), "
            f"at most {max_fraction:.2%} may be. The table names each; repair the source, or raise "
            "corpus.max_bad_fraction."
        )


def _label(label: int) -> str:
    return "none" if label == NO_NAME else str(label)

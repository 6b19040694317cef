"""Which of the inputs that a packing keeps the corpus has already, and what it says of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_ray.corpus.format import Commit
from kd_ray.corpus.packed import Members
from kd_ray.corpus.packing.findings import NO_NAME, Findings
from kd_ray.corpus.packing.plan import Verdict, annotations_of
from kd_ray.corpus.source import SPLITS
from kd_ray.errors import CorpusError


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Parallel arrays [N] over the findings; `label` (-1 for none) and `split` (an index into SPLITS) are those of the
    corpus where `is_packed` is set.

    `is_reannotated` marks the samples of shards in which something is said of a sample that was not when it was packed.
    """

    is_packed: NDArray[np.bool_]
    is_reannotated: NDArray[np.bool_]
    label: NDArray[np.int32]
    split: NDArray[np.int8]


def find_known(findings: Findings, verdict: Verdict, packed: Iterable[tuple[Commit, Members]], *, where: str) -> Known:
    """Look up the packed samples, a shard at a time, so that few of them are in memory.

    A shard that the source still holds whole must say of its samples what it said when it was packed; of a shard that
    it does not, only labels and split can be compared.

    Raises:
        CorpusError: a kept image has the sample id of another one that is packed.
    """
    num_inputs = len(findings)
    known = Known(
        is_packed=np.zeros(num_inputs, np.bool_),
        is_reannotated=np.zeros(num_inputs, np.bool_),
        label=np.full(num_inputs, NO_NAME, np.int32),
        split=np.zeros(num_inputs, np.int8),
    )
    rows = np.flatnonzero(verdict.kept)
    ids = findings.sample_ids[rows]
    order = np.argsort(ids)
    rows = rows[order]
    ids = ids[order]
    del order
    for commit, members in packed:
        place = np.searchsorted(ids, members.sample_ids)
        candidates = np.flatnonzero(place < len(ids))
        found = candidates[ids[place[candidates]] == members.sample_ids[candidates]]
        at = rows[place[found]]
        _refuse_other_images(findings, at, members.sha256[found], where=where)
        known.is_packed[at] = True
        known.label[at] = members.labels[found]
        known.split[at] = SPLITS.index(commit.split)
        if len(at) == len(members.sample_ids) and annotations_of(at, findings, verdict) != commit.annotations:
            known.is_reannotated[at] = True
    return known


def _refuse_other_images(
    findings: Findings, rows: NDArray[np.int64], packed_sha256: NDArray[np.uint8], *, where: str
) -> None:
    for row in rows[np.any(findings.sha256[rows] != packed_sha256, axis=1)].tolist():
        raise CorpusError(
            f"{where}: {findings.where(row)} shares a sample_id with another image that is packed (SHA-256 "
            f"{findings.sha256[row].tobytes().hex()}). Remove it from the source."
        )

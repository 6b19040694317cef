"""The packings of a corpus, one after the other: what the next one builds on, how it names its shards, how it ends."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count

from kd_ray.corpus.format import COMMITS, Identity, Packing, packing_object, shard_index
from kd_ray.corpus.packed import PackedCorpus, corpus_of, finished_packings, read_commit
from kd_ray.corpus.packing.shard import ShardRef
from kd_ray.corpus.source import SPLITS, SplitName
from kd_ray.errors import CorpusError
from kd_ray.storage import Storage, join

NUM_READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The packings that have come to their end, oldest first."""

    packings: tuple[Packing, ...]

    @property
    def number(self) -> int:
        """The number of the next packing."""
        return len(self.packings)

    def find(self, listing_digest: str) -> Packing | None:
        """The packing of a listing; None where that listing has not been packed whole."""
        return next((each for each in self.packings if each.listing_digest == listing_digest), None)

    def corpus(self, storage: Storage, identity: Identity) -> PackedCorpus:
        """Everything that they have packed."""
        return corpus_of(storage.uri, identity, self.packings)

    def classes(self, identity: Identity | None) -> tuple[str, ...]:
        """The class names by label so far; those of a first packing that was killed stay, too."""
        if self.packings:
            return self.packings[-1].classes
        return () if identity is None else identity.classes


def read_history(storage: Storage) -> History:
    """What has come to its end by now."""
    return History(packings=tuple(finished_packings(storage)))


def numbering(storage: Storage, folder: str, history: History, *, listing_digest: str) -> dict[SplitName, int]:
    """The number of the first new shard of each split, above every shard that anybody has committed.

    Kept in `folder` for a listing and a history, so that a packing that is killed and started again names its shards
    alike; chosen anew where another packing has used some of these names since.
    """
    with ThreadPoolExecutor(NUM_READERS) as pool:
        names = [name.removeprefix(f"{COMMITS}/").removesuffix(".json") for name in storage.list(COMMITS)]
        folded = {commit.shard for packing in history.packings for commit in packing.commits}
        left = [name for name in names if name not in folded]
        foreign = [
            commit.shard
            for commit in pool.map(lambda name: read_commit(storage, name), left)
            if commit.listing_digest != listing_digest
        ]
    for attempt in count():
        name = f"{folder}/numbering-{history.number:05d}-{attempt}.json"
        storage.create(name, json.dumps(_above(names)).encode())
        chosen: dict[SplitName, int] = json.loads(storage.read(name))
        if all(shard_index(shard) < chosen[_split_of(shard)] for shard in foreign):
            return chosen
    raise AssertionError("the loop has no end")


def _above(shards: Sequence[str]) -> dict[SplitName, int]:
    taken: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)
    for shard in shards:
        taken[_split_of(shard)] = max(taken[_split_of(shard)], shard_index(shard) + 1)
    return taken


def _split_of(shard: str) -> SplitName:
    return next(split for split in SPLITS if shard.startswith(f"{split}-"))


def finish(storage: Storage, packing: Packing, shards: Sequence[ShardRef], history: History) -> None:
    """Make the packing of `shards` the next one, with their commits folded into its record.

    Raises:
        CorpusError: another packing has become the next meanwhile; nothing of this one counts.
    """
    with ThreadPoolExecutor(NUM_READERS) as pool:
        commits = tuple(pool.map(lambda shard: read_commit(storage, shard.name), shards))
    for shard, commit in zip(shards, commits, strict=True):
        assert commit.object == shard.object, "the writer has looked"
    record = replace(packing, commits=commits)
    if storage.create(packing_object(history.number), record.to_json()):
        return
    if read_history(storage).find(packing.listing_digest) is None:
        raise CorpusError(
            f"{join(storage.uri, packing_object(history.number))}: another packing came to its end meanwhile. Run the "
            "same command again: it packs only what that one did not."
        )

"""Samples to look at: of the packed corpus, or straight from its sources while nothing is packed."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from kd_ray.config.corpus import Corpus, MixtureCorpus
from kd_ray.corpus.format import read_identity, sample_id_of
from kd_ray.corpus.images.check import check
from kd_ray.corpus.images.reencode import reencode, reencode_mask
from kd_ray.corpus.packed import COLUMNS, PackedCorpus, Rows, finished_packings, open_corpus
from kd_ray.corpus.packing.findings import Finding
from kd_ray.corpus.packing.scan import examine
from kd_ray.corpus.source import Input, Rejected
from kd_ray.corpus.sources.opening import NamedSource, open_sources
from kd_ray.errors import CorpusError
from kd_ray.storage import open_storage, redacted

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetSample:
    """An image and its mask as they are stored (encoded), its upright (height, width), and what people know it by.

    `mask` is None where there is none, or none was asked for.
    """

    sample_id: int
    name: str
    image: bytes
    size_px: tuple[int, int]
    mask: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Samples that may be mixed with one another, in their order, and where they are from, as a sentence.

    `is_row_group` is false where they are not packed yet.
    """

    samples: tuple[SheetSample, ...]
    origin: str
    is_row_group: bool

    def as_rows(self) -> Rows:
        """The samples as those of one row group, without labels."""
        return Rows(
            sample_ids=np.array([sample.sample_id for sample in self.samples], np.uint64),
            labels=np.empty(0, np.int32),
            sizes_px=np.array([sample.size_px for sample in self.samples], np.int32),
            images=[sample.image for sample in self.samples],
            rows_per_group=(len(self.samples),),
            masks=[sample.mask for sample in self.samples],
        )


def training_group(config: Corpus, *, num_samples: int, report: Report, with_masks: bool = False) -> Group:
    """The first training row group of the packed corpus, whole; or, where nothing is packed, the first `num_samples`
    images of its sources that can be read, with the same ids, sizes and bytes that packing would give them.

    `report` is told how many images have been read from the sources. `with_masks` asks for the masks, too.

    Raises:
        CorpusError: neither has a training image, or nothing is packed and overrides may hold the masks.
        StorageError: a location cannot be reached.
    """
    storage = open_storage(config.packed_uri)
    if read_identity(storage) is None or not finished_packings(storage):
        if with_masks and config.overrides_uri is not None:
            raise CorpusError(
                f"{redacted(config.packed_uri)}: nothing is packed there yet, and the masks that decide these views "
                "may come from corpus.overrides_uri, which is about packed samples. Run the pack stage first."
            )
        return source_group(config, num_samples=num_samples, report=report)
    corpus = open_corpus(config.packed_uri, overrides_uri=config.overrides_uri)
    return packed_group(corpus, with_masks=with_masks)


def packed_group(corpus: PackedCorpus, *, with_masks: bool = False) -> Group:
    """The first row group of the training split.

    Raises:
        CorpusError: the corpus has no training samples.
        ShardCorrupt: the shard is missing, or a checksum does not match.
    """
    where, shards = redacted(corpus.uri), corpus.shards("train")
    if not shards:
        raise CorpusError(f"{where}: no sample is in the train split. Give more images, or another corpus.split.")
    rows = corpus.read_rows(shards[0].name, 0, 1, columns=(*COLUMNS, "mask") if with_masks else COLUMNS)
    samples = tuple(
        SheetSample(
            sample_id=sample_id,
            name=_name(sample_id, corpus.classes[label] if label >= 0 else ""),
            image=image,
            size_px=(height, width),
            mask=mask,
        )
        for sample_id, label, image, (height, width), mask in zip(
            rows.sample_ids.tolist(),
            rows.labels.tolist(),
            rows.images,
            rows.sizes_px.tolist(),
            rows.masks or [None] * len(rows.images),
            strict=True,
        )
    )
    origin = f"From the packed corpus {where}, the first row group of {shards[0].name}."
    return Group(samples=samples, origin=origin, is_row_group=True)


def source_group(config: Corpus, *, num_samples: int, report: Report) -> Group:
    """The first `num_samples` training images in the order of the listing, in turn from each source of a mixture.

    Raises:
        CorpusError: there is none.
        StorageError: a source cannot be reached.
    """
    passed_over: Counter[str] = Counter()
    sources = open_sources(config)
    samples: dict[int, SheetSample] = {}
    turns = zip_longest(*(_readable(named, config, passed_over=passed_over) for named in sources))
    for each in filter(None, chain.from_iterable(turns)):
        samples.setdefault(each.sample_id, each)  # packing keeps one of equal images, too
        report(len(samples))
        if len(samples) == num_samples:
            break
    where = ", ".join(redacted(named.source.uri) for named in sources)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in passed_over.items())
    if not samples:
        raise CorpusError(
            f"{where}: no training image can be read; passed over: {left_out or 'nothing'}. "
            "Correct corpus.uri, corpus.split or native_resolution_filter."
        )
    origin = f"Nothing is packed yet: the first training images of {where}."
    if left_out:
        origin += f" Passed over: {left_out}."
    return Group(samples=tuple(samples.values()), origin=origin, is_row_group=False)


def _readable(named: NamedSource, config: Corpus, *, passed_over: Counter[str]) -> Iterator[SheetSample]:
    """The training images of one source that packing would accept; the others are counted by reason."""
    for extent in named.source.extents():
        if extent.split not in (None, "train"):
            continue
        for each in named.source.scan(extent):
            if isinstance(each, Rejected):
                passed_over[each.reason] += 1
                continue
            found = examine(
                each,
                extent_split=extent.split,
                split=config.split,
                resolution_filter=config.native_resolution_filter,
                reencode=config.reencode,
            )
            if found.reason is not None:
                passed_over[found.reason] += 1
            elif found.split == "train":
                place = f"{named.name}: {each.location}" if isinstance(config, MixtureCorpus) else each.location
                yield _as_packed(each, found, config, name=_name(sample_id_of(found.sha256), place))


def _as_packed(each: Input, found: Finding, config: Corpus, *, name: str) -> SheetSample:
    image, mask, size_px = each.data, each.mask, found.size_px
    if config.reencode is not None:
        image = reencode(image, config.reencode)
        size_px = check(image)
        if mask is not None and size_px != found.size_px:
            mask = reencode_mask(mask, size_px)
    return SheetSample(sample_id=sample_id_of(found.sha256), name=name, image=image, size_px=size_px, mask=mask)


def _name(sample_id: int, told: str) -> str:
    """File names may hold line breaks, and bytes that are no text: they are shown as �."""
    readable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in told)
    return f"sample {sample_id:016x}" + (f", {readable}" if readable else "")

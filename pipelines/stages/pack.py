"""pack: images of any source into shards, once."""

from kd_ray.config.corpus import Corpus
from kd_ray.corpus.pack import PackResult, find_packed, pack
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.plan import SPLITS
from kd_ray.errors import CorpusError
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.units import human_bytes
from pipelines.context import Run, key_of


def pack_corpus(run: Run) -> PackedCorpus:
    """The packed corpus; new samples of the source are appended to it."""
    config = run.recipe.corpus
    key = key_of(corpus=config.model_dump(mode="json"))
    found = find_packed(config)
    if found is not None:
        run.committed_outcome("pack", key=key, detail=_describe(found))
        return _opened(config)

    def do(meter: Meter) -> tuple[PackedCorpus, int, str]:
        result = pack(config, report=lambda done, total: meter.update(done, total=total))
        return _opened(config), result.num_packed, _describe(result)

    return run.work("pack", do, key=key)


def _opened(config: Corpus) -> PackedCorpus:
    """The corpus, which must have images on both sides of the split."""
    corpus = open_corpus(config.packed_uri)
    for split in SPLITS:
        if corpus.num_samples(split) == 0:
            raise CorpusError(
                f"corpus.split: all {sum(map(corpus.num_samples, SPLITS)):,} images of {config.uri} fall on one side, "
                f"none is in the {split} split. Give more images, another test_fraction, or kind: paths."
            )
    return corpus


def _describe(result: PackResult) -> str:
    dropped = [
        f"{count} {what}" for count, what in ((result.num_duplicates, "duplicates"), (result.num_bad, "bad")) if count
    ]
    left_out = f", left out: {', '.join(dropped)}" if dropped else ""
    return f"{result.num_packed:,} images, {human_bytes(result.bytes)}{left_out}"

"""pack: images of any sources into shards, once."""

from kd_ray.config.corpus import Corpus, MixtureCorpus
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import Listed, Mapper, PackResult, find_listed, here, list_sources, pack_listed, told
from kd_ray.corpus.source import SPLITS
from kd_ray.errors import CorpusError
from kd_ray.telemetry.progress import Meter
from kd_ray.telemetry.units import human_bytes
from pipelines.context import Run, key_of

IN_THIS_PROCESS_ONLY = "memory://"  # what lies there, no worker sees


def pack_corpus(run: Run) -> PackedCorpus:
    """The packed corpus; new samples of its sources are appended to it.

    Where the pack stage was not asked for, the corpus is opened as it is, and its sources are not contacted.
    """
    config = run.recipe.corpus
    key = key_of(corpus=config.model_dump(mode="json"))
    if "pack" not in run.stages:
        corpus = opened_corpus(config)
        detail = f"{sum(map(corpus.num_samples, SPLITS)):,} images, as packed"
        run.committed_outcome("pack", key=key, detail=_with_overrides(detail, corpus))
        return corpus
    listed = list_sources(config)
    found = find_listed(listed, config)
    if found is not None:
        corpus = opened_corpus(config)
        run.committed_outcome("pack", key=key, detail=_with_overrides(_describe(found), corpus))
        return corpus

    def do(meter: Meter) -> tuple[PackedCorpus, int, str]:
        result = pack_listed(
            listed,
            config,
            mapper=_mapper(run, listed),
            report=lambda done, total: meter.update(done, total=total),
        )
        corpus = opened_corpus(config)
        return corpus, result.num_packed, _with_overrides(_describe(result), corpus)

    return run.work("pack", do, key=key)


def _mapper(run: Run, listed: Listed) -> Mapper:
    uris = [run.recipe.corpus.packed_uri, *(named.source.uri for named in listed.sources)]
    if any(uri.startswith(IN_THIS_PROCESS_ONLY) for uri in uris):
        return here
    run.session.start_for("pack", num_cpus=1, num_gpus=0)
    from kd_ray.engine.pack import on_ray

    return on_ray


def opened_corpus(config: Corpus) -> PackedCorpus:
    """The corpus as it is packed, which must have images to train on and to test with."""
    corpus = open_corpus(config.packed_uri, overrides_uri=config.overrides_uri)
    for split in ("train", "test"):
        if corpus.num_samples(split) == 0:
            where = config.packed_uri if isinstance(config, MixtureCorpus) else config.uri
            raise CorpusError(
                f"corpus.split: none of the {sum(map(corpus.num_samples, SPLITS)):,} images of {where} is in the "
                f"{split} split. Give more images, another test_fraction, or kind: paths."
            )
    return corpus


def _with_overrides(detail: str, corpus: PackedCorpus) -> str:
    """What is told of a packing, and how many samples get other annotations: rows of no sample change nothing."""
    if corpus.overrides is None:
        return detail
    num_rows, num_matched = len(corpus.overrides.sample_ids), corpus.overrides.num_matched
    assert num_matched is not None, "counted where the corpus is opened by its location"
    return f"{detail}; {num_matched:,} of {num_rows:,} rows of corpus.overrides_uri are of packed samples"


def _describe(result: PackResult) -> str:
    parts = [f"{result.num_packed:,} images, {human_bytes(result.bytes)}"]
    if result.num_duplicates:
        parts.append(f"{result.num_duplicates:,} duplicates dropped")
    if result.left_out:
        parts.append(f"left out: {told(result.left_out)}; see {result.quarantine_uri}")
    return "; ".join(parts)

"""pack: images of any source into shards, once."""

from kd_ray.corpus.pack import PackResult, find_packed, pack
from kd_ray.corpus.packed import PackedCorpus, open_corpus
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
        return open_corpus(config.packed_uri)

    def do(meter: Meter) -> tuple[PackedCorpus, int, str]:
        result = pack(config, report=lambda done, total: meter.update(done, total=total))
        return open_corpus(config.packed_uri), result.num_packed, _describe(result)

    return run.work("pack", do, key=key)


def _describe(result: PackResult) -> str:
    dropped = [
        f"{count} {what}" for count, what in ((result.num_duplicates, "duplicates"), (result.num_bad, "bad")) if count
    ]
    left_out = f", left out: {', '.join(dropped)}" if dropped else ""
    return f"{result.num_packed:,} images, {human_bytes(result.bytes)}{left_out}"

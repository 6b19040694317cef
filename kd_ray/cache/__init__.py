"""What teachers gave for views, stored to be read for years; `open` is the way in from anyone's own program."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kd_ray.cache.opened import OpenedCache
    from kd_ray.corpus.packed import PackedCorpus

__all__ = ["open"]


def open(uri: str, corpus: "str | PackedCorpus | None" = None) -> "OpenedCache":
    """The cache at `uri`, local or on any fsspec URL, for reading.

    `corpus` is where its packed corpus lies, or that corpus as `kd_ray.corpus.packed.open_corpus` gives it; None: where
    the cache says that it lay when the views were made.

    Raises:
        CacheIncomplete: there is no cache.
        StorageError: the location cannot be read.
    """
    from kd_ray.cache.opened import open_cache  # `import kd_ray.cache` stays cheap

    return open_cache(uri, corpus=corpus)

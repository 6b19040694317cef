"""From a recipe's corpus section to the source that it describes."""

from typing import assert_never

from kd_ray.config.corpus import Corpus, DigitsCorpus, FolderCorpus, ParquetCorpus
from kd_ray.corpus.digits import write_digits
from kd_ray.corpus.folder import open_folder
from kd_ray.corpus.parquet_source import open_parquet
from kd_ray.corpus.source import Source
from kd_ray.storage import digest_of_json

# What a recipe may change without the samples of a source being other ones.
NOT_OF_THE_SOURCE = {"packed_uri", "max_bad_fraction", "row_group_size", "shard_row_groups", "seed"}


def open_source(config: Corpus) -> Source:
    """List the source once; the digits are written first where they are missing.

    Raises:
        CorpusError: nothing usable is there.
    """
    match config:
        case FolderCorpus():
            return open_folder(config.uri, split=config.split)
        case ParquetCorpus():
            return open_parquet(config)
        case DigitsCorpus():
            write_digits(config.uri)
            return open_folder(config.uri, split=config.split)
        case _:
            assert_never(config)


def listing_digest(source: Source, config: Corpus) -> str:
    """Changes whenever a file is added, removed, resized or rewritten, or is to be read in another way.

    A file rewritten within the resolution of the store's modification times, at equal size, is not noticed.
    """
    files = [[entry.location, entry.size_bytes, entry.version] for entry in source.listing()]
    how = config.model_dump(mode="json", exclude=NOT_OF_THE_SOURCE)
    return digest_of_json({"files": files, "source": how, "classes": list(source.classes)})

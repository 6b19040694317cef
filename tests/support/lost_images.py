"""A packed corpus whose images are gone, for showing that somebody does without them."""

from pathlib import Path

import pyarrow.parquet as pq


def destroy_images(packed: Path | str, *, split: str = "train") -> None:
    """Overwrite the image columns of the split's shards: whoever reads one finds that it fails its checksum."""
    for path in Path(packed).glob(f"shards/{split}-*.parquet"):
        data, footer = bytearray(path.read_bytes()), pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            columns = [footer.row_group(group).column(number) for number in range(footer.num_columns)]
            (image,) = (column for column in columns if column.path_in_schema == "image")
            start = image.data_page_offset
            data[start : start + image.total_compressed_size] = bytes(image.total_compressed_size)
        path.write_bytes(data)

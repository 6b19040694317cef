"""Small images and corpora made by the tests themselves."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd_ray.config.corpus import FolderCorpus, HashSplit

# No host, port, bucket or repository can have these names.
IMPOSSIBLE_URLS = (
    *(
        "http://h:99999/x.png",
        "http://a..b/x.png",
        f"http://{'a' * 70}.com/x.png",
        "http://[h/x.png",
        "https:///x.png",
    ),
    *("s3://", "s3://B@d!/x.png", "s3://x y/z.png", "hf://x", "hf://"),
)


def noise(seed: int, *, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    return encoded(noise(seed))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_classes(root: Path, *, per_class: int, classes: str = "ab", first_seed: int = 0) -> None:
    """`<root>/<class>/<number>.png`, all different."""
    for i in range(per_class * len(classes)):
        write(root / classes[i % len(classes)] / f"{first_seed + i:03d}.png", png(first_seed + i))


def folder(tmp_path: Path, *, packed: str = "packed", **settings: Any) -> FolderCorpus:
    """Images at `src`, packed small so that a few dozen of them fill several shards."""
    small = {"row_group_size": 2, "shard_row_groups": 2, "split": HashSplit(test_fraction=0.25)}
    return FolderCorpus(
        **{"kind": "folder", "uri": str(tmp_path / "src"), "packed_uri": str(tmp_path / packed), **small, **settings}
    )


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sha256_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()

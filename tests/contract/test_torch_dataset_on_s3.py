"""A training loop of one's own over a cache and a corpus on S3, in this process and in workers."""

from pathlib import Path

import kd_ray.cache
from tests.support.own_loop import assert_same, fill, seen
from tests.support.tiny_world import pack_images, save_teacher, write_images


def test_workers_read_what_this_process_reads(s3_uri: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=8)
    corpus = pack_images(tmp_path / "images", f"{s3_uri}/corpus")
    fill(corpus, save_teacher(tmp_path, seed=0), f"{s3_uri}/cache")
    dataset = kd_ray.cache.open(f"{s3_uri}/cache").torch_dataset(size_px=24, batch_size=4, num_lanes=2)
    alone = list(dataset.loader())
    assert len({pair for batch in alone for pair in seen(batch)}) == len(alone) * 4 > 8
    for found, wanted in zip(dataset.loader(num_workers=2), alone, strict=True):
        assert_same(found, wanted)

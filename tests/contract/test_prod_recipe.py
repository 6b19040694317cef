"""conf/prod.yaml against a real S3 server over HTTP: it loads, validates and plans, and its corpus packs there."""

import io
from collections.abc import Iterator

import pytest
import s3fs
from PIL import Image
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packing.pack import pack
from kd_ray.run import run_recipe
from tests.support.processes import ROOT
from tests.support.s3 import S3Server

NUM_IMAGES = 12


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[s3fs.S3FileSystem]:
    """The recipe's own bucket on the server that the environment points to, empty before and gone after."""
    assert s3.url
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("my-bucket")
    yield filesystem
    filesystem.rm("my-bucket", recursive=True)
    filesystem.invalidate_cache()


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(ROOT / "conf" / "prod.yaml")


def planned(recipe: Recipe) -> str:
    console = Console(file=io.StringIO(), width=200)
    run_recipe(recipe, console=console, dry_run=True)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_it_plans_before_anything_is_packed(bucket: s3fs.S3FileSystem, recipe: Recipe) -> None:
    text = planned(recipe)
    assert "not packed yet, 8 views each" in text
    # vit_large at 224 px with patch 14: 16 x 16 tokens of width 1,024, two bytes each.
    assert "spatial 16x16x1024 = 524,288 B" in text
    assert bucket.find("my-bucket") == [], "a plan writes nothing"


def test_it_plans_the_packed_corpus(bucket: s3fs.S3FileSystem, recipe: Recipe) -> None:
    for index in range(NUM_IMAGES):
        buffer = io.BytesIO()
        Image.new("RGB", (40 + index, 30), (index * 20, 0, 0)).save(buffer, "JPEG")
        bucket.pipe_file(f"my-bucket/images/{index}.jpg", buffer.getvalue())
    result = pack(recipe.corpus)
    assert result.num_packed == NUM_IMAGES
    text = planned(recipe)
    assert f"{NUM_IMAGES} training images, 8 views each" in text
    assert f"{NUM_IMAGES * 8} forwards" in text

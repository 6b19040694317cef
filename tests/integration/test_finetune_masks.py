"""A teacher that is finetuned under a policy of masks: a sample without one is found before the first step."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.stages import STAGES
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import CorpusError
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from pipelines.context import Run
from pipelines.stages.finetune import prepare_teachers
from tests.support.corpus_files import encoded

RECIPE = """\
name: masked
out: {home}/out
corpus:
  kind: parquet
  uri: {home}/source
  packed_uri: ${{out}}/corpus
  split: {{kind: hash, test_fraction: 0.2}}
  mask_column: seg
  row_group_size: 4
views: {{policy: paper_seg}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [32, 32]}}
  finetune: {{steps: 4, global_batch_size: 8}}
  outputs: {{logits: {{}}}}
cache: {{uri: "${{out}}/cache"}}
student:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [32, 32]}}
train: {{losses: [{{kind: kd}}], epochs: 1}}
"""


def test_it_does_not_begin_where_a_mask_is_missing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [encoded(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(24)]
    mask = encoded(np.tile(np.arange(3, dtype=np.uint8), (20, 10)))
    masks = [mask, None] * 12
    (tmp_path / "source").mkdir()
    table = pa.table({"image": images, "seg": pa.array(masks, pa.binary()), "label": [0, 1] * 12})
    pq.write_table(table, tmp_path / "source" / "0.parquet")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(home=tmp_path))
    recipe = load_recipe(tmp_path / "recipe.yaml", [])
    pack(recipe.corpus)
    run = Run(
        recipe=recipe,
        storage=open_storage(recipe.out),
        console=Console(quiet=True),
        session=None,  # type: ignore[arg-type]  # refused before Ray starts
        events=EventLog(None),
        stages=STAGES,
    )
    with pytest.raises(CorpusError, match=r"\d+ samples have no mask"):
        prepare_teachers(run, open_corpus(recipe.corpus.packed_uri))

"""The example in FORMAT.md runs as it stands there and reads what kd_ray wrote."""

import re
from pathlib import Path

import numpy as np
import pytest

import kd_ray.cache
from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.view_store import open_view_store
from kd_ray.views import FlipParams, Proof, ViewRow
from tests.support.tiny_cache import IDS, UNIT, new_output, values_of

PROOF = Proof(digest=bytes(16), thumbnail=bytes(192))


def _example() -> str:
    text = (Path(kd_ray.cache.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return str(code)


def test_the_example_of_the_specification_reads_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_uri = str(tmp_path / "cache")
    view_set = Spec(name="golden-train", identity={"seed": 0})
    rows = [
        ViewRow(sample_id=int(sample_id), view_index=view, params=(FlipParams(flipped=True),), proof=PROOF)
        for view in range(UNIT.num_views)
        for sample_id in IDS
    ]
    open_view_store(cache_uri, view_set, grid=Grid(unit_row_groups=2, unit_views=2)).write(UNIT, rows, IDS, attempt="a")
    new_output(cache_uri).write(UNIT, values_of(UNIT), IDS, attempt="b")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(_example(), "FORMAT.md", "exec"), names)
    np.testing.assert_array_equal(names["targets_VND"], values_of(UNIT))
    assert capsys.readouterr().out.startswith(f'{UNIT.id} (2, 5, 3) 7 [{{"flipped":true,"kind":"flip"}}]')

"""What a run keeps in memory of the views that it checks."""

import tracemalloc
from pathlib import Path

import numpy as np

from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import open_view_store
from kd_ray.config.views import CenterCrop, Policy
from kd_ray.corpus.packed import Rows
from kd_ray.training.batches import Drawn
from kd_ray.training.loading import LoadedSpan
from kd_ray.training.targets import CachedTargets, Pinned
from kd_ray.training.views import ReplayedViews
from kd_ray.views import KeptView, Proof, ViewRow, prove
from kd_ray.views.kept import WHOLE

POLICY = Policy(name="whole", operations=(CenterCrop(kind="center_crop"),))
SPAN = Span(shard="train-00000", group_start=0, group_stop=1)
IDS = np.arange(1_024, dtype=np.uint64)
NUM_VIEWS, ONE_IN = 8, 256
BYTES_A_PROOF = 330


def test_only_the_proofs_of_checked_views_stay_in_memory(tmp_path: Path) -> None:
    view = KeptView(params=(WHOLE,), pixels_HW3=np.zeros((8, 8, 3), np.uint8))
    proof = prove(view, policy=POLICY)
    unit = Unit(span=SPAN, view_start=0, view_stop=NUM_VIEWS)
    store = open_view_store(
        str(tmp_path), Spec(name="whole", identity={}), grid=Grid(unit_row_groups=1, unit_views=NUM_VIEWS)
    )
    rows = [
        ViewRow(
            sample_id=int(each),
            view_index=index,
            params=view.params,
            proof=Proof(digest=proof.digest, thumbnail=proof.thumbnail),
        )
        for index in range(NUM_VIEWS)
        for each in IDS
    ]
    assert store.write(unit, rows, IDS, attempt="only")
    pinned = Pinned(outputs={}, views=store.collection.pin([unit]))
    targets = CachedTargets(pinned, view_store=store, policy=POLICY, verify_one_in=ONE_IN)
    of_span = Rows(
        sample_ids=IDS,
        labels=np.empty(0, np.int32),
        sizes_px=np.empty((0, 2), np.int32),
        images=[],
        rows_per_group=(len(IDS),),
    )
    views = ReplayedViews(policy=POLICY, seed=0, kept=None).load(SPAN, 0, of_span)

    def check_all() -> None:
        for index in range(NUM_VIEWS):
            loaded = LoadedSpan(rows=of_span, views=views, label_of={}, view_index=index, targets={})
            for row in range(len(IDS)):
                targets.check(SPAN, Drawn(loaded=loaded, row=row, view=view, pixels_HWC=view.pixels_HW3))

    tracemalloc.start()
    check_all()
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert targets.num_rounded == 0
    assert kept_bytes < NUM_VIEWS * len(IDS) * BYTES_A_PROOF / 8

"""A DataLoader over a cache that knows how far its consumer is, whatever its workers have made ahead."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from kd_ray.training.dataset import CacheDataset


class CacheLoader(DataLoader[dict[str, Any]]):
    """Each iteration is one epoch, or the rest of one that was left early or resumed (see `CacheDataset.loader`)."""

    def __init__(
        self,
        dataset: "CacheDataset",
        *,
        num_workers: int,
        pin_memory: bool,
        prefetch_factor: int | None,
        multiprocessing_context: str | None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # items are batches
            num_workers=num_workers,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            multiprocessing_context=multiprocessing_context,
            persistent_workers=num_workers > 0,  # they open the cache once
        )
        self._cache_dataset = dataset
        self._position = dataset.position

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # DataLoader's own is not public
        self._cache_dataset.refuse_uneven_lanes(self.num_workers)
        self._cache_dataset.begin(*self._position)
        for batch in super().__iter__():
            epoch, consumed = batch["position"].tolist()
            self._position = epoch, consumed
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands after the last batch that was handed out: resuming gives exactly the next one."""
        return self._cache_dataset.state_dict(self._position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there with the next iteration; raises what `CacheDataset.load_state_dict` does."""
        self._cache_dataset.load_state_dict(state)
        self._position = self._cache_dataset.position

"""Folding what a target plan commits: as its units are reported, and all of it in the end."""

from kd_ray.cache.commits import Collection
from kd_ray.cache.fold import FOLD_EVERY, fold, folded_generations, seal
from kd_ray.cache.target_set import find_output
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import find_view_store
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.unit import VIEWS


class Folding:
    """The commits of one target plan: those of its views, and of each output."""

    def __init__(self, plan: TargetPlan) -> None:
        self._plan = plan
        self._reported: list[Unit] = []
        self._held: dict[str, dict[Unit, int]] = {}  # by name: what is folded

    def add(self, unit_id: str) -> None:
        """One more unit is committed; every FOLD_EVERY of them are folded."""
        self._reported.append(Unit.from_id(unit_id))
        if len(self._reported) >= FOLD_EVERY:
            for name, collection in self._collections().items():
                if name not in self._held:
                    self._held[name] = folded_generations(collection.manifests.read())
                generations = self._plan.job.generations.get(name, {})
                newest = {unit: generations.get(unit.id, 0) for unit in self._reported}
                fold(collection, newest, held=self._held[name])
                self._held[name] |= newest
            self._reported.clear()

    def seal(self) -> None:
        """Fold all that is committed, unless every unit of the plan is folded already."""
        for collection in self._collections().values():
            seal(collection, self._plan.view_set.units)

    def _collections(self) -> dict[str, Collection]:
        """By the name of the output; those that exist."""
        job = self._plan.job
        found = {name: find_output(job.cache_uri, job.target_set, spec) for name, spec in job.outputs.items()}
        stores = {VIEWS: find_view_store(job.cache_uri, job.view_set), **found}
        return {name: each.collection for name, each in stores.items() if each is not None}

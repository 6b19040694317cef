"""A cache opened by its address alone: which target sets it holds, and what a training loop reads of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_ray.cache.catalog import Catalog, read_catalog
from kd_ray.cache.choice import Chosen, choose
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import Output
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.dataset import DatasetSettings
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError, RecipeError
from kd_ray.storage import redacted

if TYPE_CHECKING:
    from kd_ray.training.dataset import CacheDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSet:
    """One teacher on one view set: its `outputs` by the names that `torch_dataset` takes."""

    spec: Spec
    views: ViewStore
    outputs: Mapping[str, Output]

    @property
    def teacher(self) -> str:
        """What the teacher was called when it was first stored."""
        return self.spec.name

    @property
    def split(self) -> str | None:
        """Of the corpus."""
        split: str | None = self.views.spec.identity.get("split")
        return split


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCache:
    """What lay in a cache when it was opened; `corpus` None is the one that the views name."""

    catalog: Catalog
    corpus: str | PackedCorpus | None

    @property
    def uri(self) -> str:
        """Where the cache lies."""
        return self.catalog.uri

    @property
    def target_sets(self) -> dict[str, TargetSet]:
        """Those whose views are in the cache, by their folder's name."""
        found = {}
        for spec in self.catalog.target_sets.values():
            fingerprint = spec.identity["view_set"]
            views = [each for each in self.catalog.view_sets.values() if each.spec.fingerprint == fingerprint]
            outputs = {
                each.spec.folder: each
                for each in self.catalog.outputs.values()
                if each.target_set.folder == spec.folder
            }
            if views and outputs:
                found[spec.folder] = TargetSet(spec=spec, views=views[0], outputs=outputs)
        return found

    def choose(
        self,
        *,
        teacher: str | Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        views: str | None = None,
        split: SplitName = "train",
    ) -> Chosen:
        """The outputs that these names mean; see `torch_dataset`.

        Raises:
            RecipeError: a name means nothing, or several.
        """
        try:
            return choose(self.uri, self.target_sets, teacher=teacher, outputs=outputs, views=views, split=split)
        except RecipeError as error:
            if not self.catalog.findings:
                raise
            raise RecipeError(f"{error} What is damaged is not among it: {self.catalog.findings[0]}") from None

    def corpus_of(self, views: ViewStore) -> PackedCorpus:
        """The packed corpus of a view set.

        Raises:
            RecipeError: the cache does not say where it lies, and it was not given.
            CorpusError: there is none, or another one.
        """
        where, wanted = redacted(self.uri), str(views.spec.identity.get("corpus_id"))
        given = views.corpus_uri if self.corpus is None else self.corpus
        if not given or not isinstance(given, str | PackedCorpus):
            raise RecipeError(
                f"{where}/views/{views.spec.folder}: does not say where its packed corpus lies. Give it: "
                "open(uri, corpus=…), the corpus.packed_uri of the recipe."
            )
        try:
            found = open_corpus(given) if isinstance(given, str) else given
        except CorpusError as error:
            if self.corpus is not None:
                raise
            raise CorpusError(
                f"{error} {where} was built from it; where it was moved, give open(uri, corpus=…)."
            ) from None
        if found.corpus_id != wanted:
            raise CorpusError(
                f"{redacted(found.uri)}: is corpus {found.corpus_id[:12]}, the views {views.spec.folder} of {where} "
                f"are of corpus {wanted[:12]}. Give the corpus that the cache was built from: open(uri, corpus=…)."
            )
        return found

    def torch_dataset(
        self,
        *,
        size_px: int | tuple[int, int],
        teacher: str | Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        views: str | None = None,
        split: SplitName = "train",
        num_views: int | None = None,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        keep_last: bool = False,
        interpolation: str = "bicubic",
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        decode: bool = True,
        verify_one_in: int = 256,
        num_lanes: int = 16,
        shuffle_window: int = 2,
        num_threads: int = 1,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> "CacheDataset":
        """Batches of rendered views with labels and targets, for a training loop of one's own; needs torch.

        `teacher` is one, by name or by its target set's folder, or several, then targets are by (teacher, output); None
        where there is one. `outputs` None are all. `views` is the name of a view set, or a part of it: needed where
        a teacher has several of one split, such as one for each kind of a policy's views. `num_views` None reads as
        many views of each sample as there are. `batch_size` is that of one rank. `verify_one_in`: of the views read,
        one in so many is compared with the digest of what the teacher saw. `size_px` (of both sides, or height and
        width), `interpolation`, `mean` and `std` are the student's; as in timm, pixels come divided by 255, less the
        mean, over the deviation. The others are told where `CacheDataset` is.

        Raises:
            RecipeError: a name means nothing or several, or a value is out of range.
            CorpusError, FingerprintMismatch: the corpus is not the one of the views.
            CacheIncomplete: units that would be read are not committed.
        """
        # the one import from here upwards, into what needs torch
        from kd_ray.training.open_dataset import open_dataset

        settings = DatasetSettings.checked(
            {
                "size_px": size_px,
                "num_views": num_views,
                "batch_size": batch_size,
                "shuffle": shuffle,
                "seed": seed,
                "keep_last": keep_last,
                "interpolation": interpolation,
                "mean": mean,
                "std": std,
                "decode": decode,
                "verify_one_in": verify_one_in,
                "num_lanes": num_lanes,
                "shuffle_window": shuffle_window,
                "num_threads": num_threads,
                "rank": rank,
                "num_ranks": num_ranks,
            }
        )
        chosen = self.choose(teacher=teacher, outputs=outputs, views=views, split=split)
        return open_dataset(self.uri, chosen, corpus=self.corpus_of(chosen.views), settings=settings)


def open_cache(uri: str, *, corpus: str | PackedCorpus | None) -> OpenedCache:
    """What `kd_ray.cache.open` gives."""
    return OpenedCache(catalog=read_catalog(uri), corpus=corpus)

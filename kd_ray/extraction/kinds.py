"""The view sets of all kinds of a policy. Each is a view set like any other; their spans are the same."""

from collections.abc import Mapping

from kd_ray.cache.view_store import find_view_store
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.views import Views
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.corpus.source import SplitName
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import ViewSetPlan, plan_view_set, view_set_spec, wanted_grid, widest_with_pixels


def plan_kinds(
    corpus: PackedCorpus,
    *,
    split: SplitName,
    views: Views,
    cache: CacheSettings,
    widest_bytes_per_view: Mapping[str, int],
) -> dict[str, ViewSetPlan]:
    """The view set of each kind of the recipe's policy; `widest_bytes_per_view` is of each kind's widest output.

    Training reads all kinds of a sample together, so they are cut at the same row groups: as the widest one needs it,
    or as those that exist were cut.

    Raises:
        RecipeError: kinds that exist were cut at different row groups, or otherwise than `cache` says.
    """
    policies = {kind: views.policy.of_kind(kind) for kind in views.policy.kind_names}
    stored = {}
    for kind, policy in policies.items():
        spec = view_set_spec(policy, seed=views.seed, corpus=corpus, split=split, kept=views.kept(kind))
        store = find_view_store(cache.uri, spec)
        if store is not None:
            stored[kind] = store.grid.unit_row_groups
    if len(set(stored.values())) > 1:
        told = ", ".join(f"{kind} by {groups}" for kind, groups in stored.items())
        raise RecipeError(
            f"views.policy.kinds: the kinds are cut at the same row groups, but in {cache.uri}/views they were cut at "
            f"different ones when they were created ({told}). Use another cache.uri, or change views.seed."
        )
    widest_of_all = max(widest_with_pixels(size, views.kept(kind)) for kind, size in widest_bytes_per_view.items())
    widest = wanted_grid(corpus, split=split, cache=cache, widest_bytes_per_view=widest_of_all)
    groups = cache.unit_row_groups or next(iter(stored.values()), widest.unit_row_groups)
    return {
        kind: plan_view_set(
            corpus,
            split=split,
            policy=policy,
            seed=views.seed,
            num_views=views.num_views(kind),
            cache=cache.model_copy(update={"unit_row_groups": groups}),
            widest_bytes_per_view=widest_bytes_per_view[kind],
            kept=views.kept(kind),
        )
        for kind, policy in policies.items()
    }

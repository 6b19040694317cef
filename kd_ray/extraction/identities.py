"""The whole identities of what a plan makes, as those of folders of a cache are written out for a comparison."""

from collections.abc import Iterable
from typing import Any

from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.repair import path_of_output, path_of_views

Identities = dict[str, dict[str, Any]]
"""By path below the cache: `views/…`, `targets/…`, `targets/…/…`."""


def identities_of(plans: Iterable[TargetPlan]) -> Identities:
    """View sets, target sets and outputs of some plans; of a target set its view set's identity is written out, of an
    output its target set's.
    """
    found: Identities = {}
    for plan in plans:
        job = plan.job
        views = dict(plan.view_set.spec.identity)
        target_set = {**job.target_set.identity, "view_set": views}
        found[path_of_views(plan)] = views
        found[f"targets/{job.target_set.folder}"] = target_set
        found |= {
            path_of_output(plan, spec): {**spec.identity, "target_set": target_set} for spec in job.outputs.values()
        }
    return found

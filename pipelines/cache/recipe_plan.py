"""What a recipe asks of a cache, found without any work: nothing is packed, trained or written, and Ray stays away."""

import io

from rich.console import Console

from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.engine.session import RaySession
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from pipelines.context import Run
from pipelines.stages.finetune import teachers_at_hand
from pipelines.stages.pack import opened_corpus
from pipelines.stages.plan import CachePlan, make_plan


def plan_of(recipe: Recipe) -> tuple[PackedCorpus, CachePlan]:
    """The packed corpus and the plan, of a recipe whose locations are absolute.

    Raises:
        CorpusError: nothing is packed.
        RecipeError: a teacher is still to be finetuned.
        WeightsError, ModelError: a teacher cannot be loaded.
    """
    corpus = opened_corpus(recipe.corpus)
    run = Run(
        recipe=recipe,
        storage=open_storage(recipe.out),
        console=Console(file=io.StringIO()),
        session=RaySession(recipe.cluster),
        events=EventLog(None),
        stages=(),
    )
    return corpus, make_plan(recipe, corpus, teachers_at_hand(run, corpus))

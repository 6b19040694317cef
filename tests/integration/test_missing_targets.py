"""`train.missing_targets`: what a run is planned with where units are missing, and that it is told."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.recipe import Recipe
from kd_ray.config.stages import STAGES
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheIncomplete, RecipeError
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.run import run_recipe
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from kd_ray.training.job import TrainJob, is_finished, train_alone
from kd_ray.training.sources import PartialSource
from pipelines.context import Run
from pipelines.stages.extract import extract_targets
from pipelines.stages.finetune import prepare_teachers
from pipelines.stages.partial import policy_lines
from pipelines.stages.plan import CachePlan, make_plan
from pipelines.stages.students import distilled_job
from tests.support.tiny_world import extract, save_teacher

RECIPE = """\
name: partial
out: {home}/out
corpus:
  kind: folder
  uri: {source}
  packed_uri: {packed}
  split: {{kind: hash, test_fraction: 0.2}}
  row_group_size: 8
  shard_row_groups: 4
views:
  count: 2
  policy: {{name: crops, operations: [{{kind: random_resized_crop}}, {{kind: horizontal_flip}}]}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  weights: {home}/teacher-0.safetensors
  input: {{size_px: [32, 32]}}
  outputs: {{summary: {{codec: float32}}, logits: {{codec: int8}}}}
cache: {{uri: {home}/cache, unit_row_groups: 2, unit_views: 1}}
student: {{model: {{kind: cifar_resnet, depth: 8}}, input: {{size_px: [24, 24]}}}}
train:
  losses: [{{kind: feature, output: summary, head: {{kind: linear}}}}]
  epochs: 0.5
  global_batch_size: 16
"""
KD = "train.losses=[{kind: kd}]"
TRAIN = ("train",)


@dataclass(frozen=True)
class World:
    """A packed corpus, a teacher with weights, and an empty cache."""

    home: Path
    corpus: PackedCorpus
    teacher: KnownTeacher

    def recipe(self, *overrides: str) -> Recipe:
        return load_recipe(self.home / "recipe.yaml", overrides)

    def plan(self, recipe: Recipe) -> CachePlan:
        outputs = recipe.all_teachers()["teacher"].outputs
        shapes = {name: self.teacher.shapes[name] for name in outputs.names()}
        return make_plan(recipe, self.corpus, {"teacher": self.known(recipe, shapes)})

    def known(self, recipe: Recipe, shapes) -> KnownTeacher:
        return replace(self.teacher, config=recipe.all_teachers()["teacher"], shapes=shapes)

    def missing(self) -> TargetPlan:
        return self.plan(self.recipe()).training[""]["teacher"]

    def extract(self, *, share: float = 1.0) -> None:
        """The first units of those that are missing."""
        plan = self.missing()
        extract(replace(plan, missing=plan.missing[: round(share * len(plan.missing))]), attempt=f"{share}")

    def job(self, *overrides: str, stages: tuple[str, ...] = TRAIN) -> tuple[TrainJob, str]:
        """As the train stage plans it, and what is printed."""
        recipe = self.recipe(*overrides)
        printed = StringIO()
        plan = self.plan(recipe)
        teachers = {"teacher": self.known(recipe, self.teacher.shapes)}
        job = distilled_job(self.run(recipe, stages=stages, printed=printed), self.corpus, teachers, plan)
        return job, printed.getvalue()

    def run(self, recipe: Recipe, *, stages: tuple[str, ...], printed: StringIO) -> Run:
        return Run(
            recipe=recipe,
            storage=open_storage(recipe.out),
            console=Console(file=printed, width=500),
            session=None,  # type: ignore[arg-type]  # nothing starts Ray
            events=EventLog(None),
            stages=stages,
        )

    def lines(self, *overrides: str, stages: tuple[str, ...] = TRAIN) -> list[str]:
        """What the plan tells of the policy."""
        recipe = self.recipe(*overrides)
        return list(policy_lines(self.run(recipe, stages=stages, printed=StringIO()), self.plan(recipe)))


@pytest.fixture
def world(tiny_corpus: PackedCorpus, tmp_path: Path) -> World:
    source = Path(tiny_corpus.uri).parent / "source"
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(home=tmp_path, packed=tiny_corpus.uri, source=source))
    return World(home=tmp_path, corpus=tiny_corpus, teacher=save_teacher(tmp_path, seed=0))


def policy(name: str) -> str:
    return f"train.missing_targets={name}"


def spans_of(job: TrainJob) -> set[object]:
    return {each.span for source in job.order.sources for each in source.spans}


class TestSkip:
    def test_samples_of_which_a_view_is_missing_are_left_out(self, world: World) -> None:
        world.extract(share=0.6)
        missing = world.missing()
        whole = world.plan(world.recipe()).training_spans
        job, _ = world.job(policy("skip"))
        left_out = {unit.span for unit in missing.missing}
        assert spans_of(job) == set(whole) - left_out
        assert job.snapshot is not None
        num_samples = sum(missing.view_set.rows_of[span] for span in left_out)
        assert (job.snapshot.num_units, job.snapshot.num_samples) == (len(missing.missing), num_samples)
        assert job.order.num_samples == world.corpus.num_samples("train") - num_samples > 0
        result = train_alone(job, device="cpu")
        assert result.history[-1]["step"] == job.settings.num_steps
        record = open_storage(job.run_uri).read("run.json").decode()
        assert f'"num_samples": {num_samples}' in record

    def test_a_run_that_has_begun_goes_on_with_its_snapshot_though_the_cache_has_grown(self, world: World) -> None:
        world.extract(share=0.6)
        begun, told = world.job(policy("skip"))
        assert told == ""
        world.extract(share=0.5)
        again, told = world.job(policy("skip"))
        assert (again.run_uri, again.order, again.snapshot) == (begun.run_uri, begun.order, begun.snapshot)
        assert f"goes on with what was missing when {begun.run_uri} was begun" in told

    def test_once_it_is_finished_a_fuller_cache_is_another_run(self, world: World) -> None:
        world.extract(share=0.6)
        first, _ = world.job(policy("skip"))
        train_alone(first, device="cpu")
        same, told = world.job(policy("skip"))
        assert (same.run_uri, told) == (first.run_uri, "")
        world.extract(share=0.5)
        # without the train stage what is there is looked at
        assert world.job(policy("skip"), stages=("evaluate",))[0].run_uri == first.run_uri
        second, told = world.job(policy("skip"))
        assert second.run_uri != first.run_uri
        assert not is_finished(second)
        assert second.order.num_samples > first.order.num_samples
        assert f"when {first.run_uri} was trained, so this is another run: {second.run_uri}" in told

    def test_with_nothing_left_it_ends(self, world: World) -> None:
        with pytest.raises(CacheIncomplete, match=r"is skip, but of every sample a target .* is missing"):
            world.job(policy("skip"))

    def test_outputs_that_no_loss_needs_do_not_matter(self, world: World) -> None:
        world.extract()
        plan = world.missing()
        folder = f"targets/{plan.job.target_set.folder}/{plan.job.outputs['logits'].folder}/commits"
        open_storage(plan.job.cache_uri).remove(folder)
        assert world.missing().missing
        assert world.job(policy("skip"))[0].snapshot is None
        assert world.lines(policy("skip")) == []


class TestLive:
    def test_the_teachers_of_what_is_missing_run_in_the_loop(self, world: World) -> None:
        world.extract(share=0.6)
        missing = world.missing()
        job, _ = world.job(policy("live"))
        assert isinstance(job.source, PartialSource)
        assert job.source.missing[""].units == set(missing.missing)
        assert job.snapshot is not None
        assert job.snapshot.num_views == missing.view_set.views_in(missing.missing)
        assert job.order.num_samples == world.corpus.num_samples("train")
        train_alone(job, device="cpu")
        assert is_finished(job)

    def test_it_is_another_run_than_that_on_the_whole_cache(self, world: World) -> None:
        world.extract(share=0.6)
        live, _ = world.job(policy("live"))
        world.extract()
        assert world.job()[0].run_uri != live.run_uri

    def test_without_a_calibration_it_cannot_be_encoded(self, world: World) -> None:
        with pytest.raises(CacheIncomplete, match=r"stored as int8, whose calibration is fixed with the first unit"):
            world.job(policy("live"), KD)

    def test_of_an_empty_cache_everything_is_computed(self, world: World) -> None:
        job, _ = world.job(policy("live"))
        train_alone(job, device="cpu")
        assert is_finished(job)
        assert not (world.home / "cache").exists()


@pytest.mark.parametrize("name", ["wait", "skip", "live"])
def test_on_a_whole_cache_all_policies_are_the_same_run(world: World, name: str) -> None:
    world.extract()
    plain, _ = world.job()
    job, told = world.job(policy(name))
    assert (job.run_uri, job.order, job.source, told) == (plain.run_uri, plain.order, plain.source, "")


def test_waiting_is_the_same_run_as_that_on_the_whole_cache(world: World) -> None:
    job, _ = world.job(policy("wait"), "train.wait_limit_s=7")
    assert job.waiting is not None
    assert job.waiting.limit_s == 7
    world.extract()
    assert job.run_uri == world.job()[0].run_uri


class TestTold:
    def test_the_plan_says_what_the_policy_does(self, world: World) -> None:
        world.extract(share=0.6)
        missing = world.missing()
        num_units, total = len(missing.missing), len(missing.view_set.units)
        of_units = f"of the {total} units that training reads {num_units} are missing"
        num_samples = sum(missing.view_set.rows_of[span] for span in {unit.span for unit in missing.missing})
        (refuse,), (wait,), (skip,), (live,) = (
            world.lines(policy(name)) for name in ("refuse", "wait", "skip", "live")
        )
        assert refuse == f"train.missing_targets: refuse: {of_units}, so training is refused"
        assert wait.startswith(f"train.missing_targets: wait: {of_units}; training waits for each")
        warning = f"WARNING: train.missing_targets: {{}}: {num_units} units are missing, so "
        assert skip == f"{warning.format('skip')}{num_samples} samples are left out"
        num_views = missing.view_set.views_in(missing.missing)
        assert live == f"{warning.format('live')}targets of {num_views} views are computed in the training loop"

    def test_where_the_run_extracts_nothing_is_left_to_the_policy(self, world: World) -> None:
        assert world.lines(stages=STAGES) == []
        (line,) = world.lines(policy("skip"), stages=STAGES)
        assert line.startswith("train.missing_targets: skip: nothing is left to it")
        job, _ = world.job(policy("skip"), stages=STAGES)
        assert job.order.num_samples == world.corpus.num_samples("train")

    def test_a_dry_run_says_it_too(self, world: World) -> None:
        world.extract(share=0.6)
        recipe, printed = world.recipe(policy("skip")), StringIO()
        prepare_teachers(world.run(recipe, stages=("finetune",), printed=StringIO()), world.corpus)
        run_recipe(recipe, console=Console(file=printed, width=500), stages=TRAIN, dry_run=True)
        assert world.lines(policy("skip"))[0] in printed.getvalue()
        assert not list((world.home / "out" / "stages").glob("snapshot-*"))


@pytest.mark.parametrize("name", ["refuse", "wait"])
def test_only_refuse_ends_a_run_that_does_not_extract(world: World, name: str) -> None:
    recipe = world.recipe(policy(name))
    run, plan = world.run(recipe, stages=TRAIN, printed=StringIO()), world.plan(recipe)
    act: Callable[[], None] = lambda: extract_targets(run, plan)  # noqa: E731
    if name == "refuse":
        with pytest.raises(RecipeError, match="extract is not among train, but what it makes is not committed yet"):
            act()
    else:
        act()
        (outcome,) = run.outcomes
        assert (outcome.stage, outcome.status) == ("extract", "nothing to do")
        assert "left to another run" in outcome.detail

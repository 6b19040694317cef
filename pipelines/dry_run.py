"""--dry-run: the resolved recipe and the plan, without doing or writing anything."""

from rich.console import Console

from kd_ray.cache.codecs import Coding
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_yaml
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import find_packed
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.telemetry.units import human_bytes
from kd_ray.views import max_kept_bytes
from pipelines.context import Run
from pipelines.stages.finetune import known_teacher, num_classes_of, teacher_shapes
from pipelines.stages.many import student_lines
from pipelines.stages.partial import policy_lines
from pipelines.stages.plan import enlarged, make_plan, plan_table


def show_plan(run: Run) -> None:
    """Print the recipe with all defaults, then what of the cache is missing as far as it can be known."""
    recipe, console = run.recipe, run.console
    console.print(recipe_yaml(recipe), markup=False, highlight=False, soft_wrap=True)
    for line in student_lines(recipe):
        console.print(line, highlight=False, soft_wrap=True)
    corpus = _packed(recipe)
    known = {} if corpus is None else _known_teachers(run, corpus)
    if corpus is not None and len(known) == len(recipe.all_teachers()):
        plan = make_plan(recipe, corpus, known)
        console.print(plan_table(plan, recipe))
        for line in policy_lines(run, plan):
            console.print(line, highlight=False, soft_wrap=True)
        return
    _show_estimate(recipe, corpus, known, console=console)


def _packed(recipe: Recipe) -> PackedCorpus | None:
    """The corpus where it has been packed; its source is not contacted before that."""
    if find_packed(recipe.corpus) is None:
        return None
    return open_corpus(recipe.corpus.packed_uri, overrides_uri=recipe.corpus.overrides_uri)


def _known_teachers(run: Run, corpus: PackedCorpus) -> dict[str, KnownTeacher]:
    found = {name: known_teacher(run, corpus, name, config) for name, config in run.recipe.all_teachers().items()}
    return {name: teacher for name, teacher in found.items() if teacher is not None}


def _show_estimate(
    recipe: Recipe, corpus: PackedCorpus | None, known: dict[str, KnownTeacher], *, console: Console
) -> None:
    """What a view costs, before it can be said which targets are missing."""
    views = recipe.views
    console.print("[bold]plan[/]")
    num_images = None if corpus is None else corpus.num_samples("train")
    count = "not packed yet" if num_images is None else f"{num_images:,} training images"
    counts = ", ".join(
        f"{views.num_views(kind)} {f'{kind} ' if kind else ''}views each" for kind in views.policy.kind_names
    )
    console.print(f"  corpus: {count}, {counts}", highlight=False)
    for name, teacher in recipe.all_teachers().items():
        if teacher.network is None:
            state = "nothing to compute" if name in known else "not imported into this cache yet (kd-ray cache import)"
            console.print(f"  {name} ({teacher.model.title}): {state}", highlight=False)
            continue
        # how many logits there are is a matter of the corpus, unless the model comes with classes of its own
        classes_known = corpus is not None or teacher.finetune is None
        outputs = [output for output in teacher.outputs.names() if output != "logits" or classes_known]
        num_classes = None if corpus is None else num_classes_of(teacher, corpus)
        for kind in views.policy.kind_names:
            size_px = teacher.input.of_kind(views.policy, kind).size_px
            shapes = teacher_shapes(teacher, outputs, num_classes=num_classes, size_px=size_px)
            sizes = {
                output: Coding.of(teacher.outputs.stored_as(output), shape).bytes_per_view
                for output, shape in shapes.items()
            }
            told = ", ".join(
                f"{output} {'x'.join(map(str, shapes[output]))} = {size:,} B" for output, size in sizes.items()
            )
            total = "" if num_images is None else _total(num_images * views.num_views(kind), sum(sizes.values()))
            state = "" if name in known else "; its weights are not known yet, so all of it counts as missing"
            what = f"a {kind} view" if kind else "a view"
            console.print(f"  {name} ({teacher.model.title}): {what} is {told}{total}{state}", highlight=False)
    _show_kept(recipe, num_images, console=console)


def _show_kept(recipe: Recipe, num_images: int | None, *, console: Console) -> None:
    views = recipe.views
    for kind in views.policy.kind_names:
        kept = views.kept(kind)
        if kept is None:
            continue
        bound = "" if kept.codec == "raw" else "at most "
        size = max_kept_bytes(kept)
        total = (
            "" if num_images is None else f"; {bound}{human_bytes(num_images * views.num_views(kind) * size)} in all"
        )
        what = f"a {kind} view" if kind else "a view"
        console.print(f"  kept pixels ({kept.title}): {what} is {bound}{size:,} B{total}", highlight=False)
    for warning in enlarged(recipe):
        console.print(f"  {warning}", highlight=False)


def _total(num_views: int, bytes_per_view: int) -> str:
    return f"; {num_views:,} forwards, {human_bytes(num_views * bytes_per_view)} in all"

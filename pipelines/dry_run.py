"""--dry-run: the resolved recipe and the plan, without doing or writing anything."""

from math import prod

from rich.console import Console

from kd_ray.cache.codecs import bytes_per_value
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_yaml
from kd_ray.storage import open_storage
from kd_ray.telemetry.units import human_bytes


def show_plan(recipe: Recipe, *, console: Console) -> None:
    """Print the recipe with all defaults, then what a view costs and what is known of the corpus."""
    console.print(recipe_yaml(recipe), markup=False, highlight=False, soft_wrap=True)
    console.print("[bold]plan[/]")
    num_images = _packed_images(recipe)
    packed = "not packed yet" if num_images is None else f"{num_images:,} training images"
    console.print(f"  corpus: {packed}; {recipe.views.count} views each", highlight=False)
    for line in _teacher_lines(recipe, num_images):
        console.print(f"  {line}", highlight=False)


def _packed_images(recipe: Recipe) -> int | None:
    from kd_ray.corpus.packed import open_corpus

    if not open_storage(recipe.corpus.packed_uri).exists("corpus.json"):
        return None
    return open_corpus(recipe.corpus.packed_uri).num_samples("train")


def _teacher_lines(recipe: Recipe, num_images: int | None) -> list[str]:
    from kd_ray.models import output_shapes

    lines = []
    for name, teacher in recipe.all_teachers().items():
        shapes = output_shapes(
            teacher.model,
            size_px=teacher.input.size_px,
            num_classes=None,
            names=teacher.outputs.names(),
            spatial_stage=teacher.outputs.spatial_stage,
        )
        sizes = {
            output: prod(shape) * bytes_per_value(teacher.outputs.codec_of(output)) for output, shape in shapes.items()
        }
        told = ", ".join(
            f"{output} {'x'.join(map(str, shapes[output]))} = {size:,} B" for output, size in sizes.items()
        )
        total = ""
        if num_images is not None:
            views = num_images * recipe.views.count
            total = f"; {views:,} forwards, {human_bytes(views * sum(sizes.values()))} in all"
        lines.append(f"{name} ({teacher.model.title}): a view is {told}{total}")
    return lines

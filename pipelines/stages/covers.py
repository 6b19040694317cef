"""Where the grids of teachers and student do not cover the same part of a view."""

from collections.abc import Mapping

from kd_ray.config.losses import OnFeatures
from kd_ray.config.recipe import Recipe
from kd_ray.extraction.plan import KnownTeacher

Covers = tuple[dict[int, tuple[tuple[float, float], tuple[float, float]]], ...]


def differing_covers(recipe: Recipe, teachers: Mapping[str, KnownTeacher]) -> Covers:
    """By kind of view and index of a loss, those of the target's grid and of the student's; where they are the same,
    of imported features, whose network nobody knows, and of a layer named by the recipe, nothing.

    Raises:
        ModelError: a model cannot be built.
    """
    from kd_ray.models.shapes import grid_cover

    policy, student, found = recipe.views.policy, recipe.student, []
    for kind in policy.kind_names:
        of_kind = {}
        for index, loss in enumerate(recipe.train.losses):
            if not isinstance(loss, OnFeatures) or loss.output != "spatial":
                continue
            teacher = teachers[recipe.teacher_of(loss)].of_kind(policy, kind).config
            if teacher.network is None or teacher.outputs.spatial_from is not None:
                continue
            cover = grid_cover(
                teacher.network, size_px=teacher.input.size_px, spatial_stage=teacher.outputs.spatial_stage
            )
            own_size_px = student.input.of_kind(policy, kind).size_px
            own_cover = grid_cover(student.model, size_px=own_size_px, spatial_stage=loss.student_stage)
            if cover != own_cover:
                of_kind[index] = (cover, own_cover)
        found.append(of_kind)
    return tuple(found)

"""Views: drawn from a policy by key alone, rendered at any size, checked by digest."""

from kd_ray.views.bits import Bits
from kd_ray.views.digest import Proof, check_view, prove
from kd_ray.views.draw import draw, draw_mixed, policy_identity
from kd_ray.views.geometry import (
    BoxesInView,
    ViewGeometry,
    boxes_in_view,
    chained_geometry,
    grid_map,
    mask_in_view,
    normalized_coords,
    patch_centers,
    polygons_in_view,
    sample_grid,
    view_geometry,
)
from kd_ray.views.params import (
    BoxParams,
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    PaddedCropParams,
    ResamplingParams,
    ResizePadParams,
    Step,
    StepsParams,
    ViewParams,
    mix_of,
    params_from_json,
    params_to_json,
)
from kd_ray.views.render import box_px, render
from kd_ray.views.table import ViewRow, decode_views, encode_views
from kd_ray.views.view import View
from kd_ray.views.view_set import renderer_versions, view_set_identity

__all__ = [
    "Bits",
    "BoxParams",
    "BoxesInView",
    "CenterCropParams",
    "CropParams",
    "FlipParams",
    "JitterParams",
    "MixParams",
    "PaddedCropParams",
    "Proof",
    "ResamplingParams",
    "ResizePadParams",
    "Step",
    "StepsParams",
    "View",
    "ViewGeometry",
    "ViewParams",
    "ViewRow",
    "box_px",
    "boxes_in_view",
    "chained_geometry",
    "check_view",
    "decode_views",
    "draw",
    "draw_mixed",
    "encode_views",
    "grid_map",
    "mask_in_view",
    "mix_of",
    "normalized_coords",
    "params_from_json",
    "params_to_json",
    "patch_centers",
    "policy_identity",
    "polygons_in_view",
    "prove",
    "render",
    "renderer_versions",
    "sample_grid",
    "view_geometry",
    "view_set_identity",
]

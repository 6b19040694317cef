"""View policies of any operations with any parameters, and the sizes at which views are rendered, drawn by hypothesis.

Every kind of operation that a recipe may name is among them: of one without a strategy of its own the defaults.
"""

from typing import Any, get_args

from hypothesis import strategies as st

from kd_ray.config.operations import Interpolation, Operation
from kd_ray.config.presets import PRESETS
from kd_ray.config.views import CROPS, Mix, Policy, RendererVersion

OPERATIONS = {get_args(each.model_fields["kind"].annotation)[0]: each for each in get_args(get_args(Operation)[0])}
CROP_KINDS = tuple(kind for kind, model in OPERATIONS.items() if model in CROPS)
OTHER_KINDS = tuple(kind for kind in OPERATIONS if kind not in CROP_KINDS)
MOVING_KINDS = (
    "horizontal_flip",
    "vertical_flip",
    "random_affine",
    "random_perspective",
    "rand_augment",
    "trivial_augment_wide",
)

sizes_px = st.tuples(st.integers(1, 70), st.integers(1, 70)) | st.sampled_from([(1, 1), (224, 224), (300, 200)])
interpolations: st.SearchStrategy[Interpolation] = st.sampled_from(get_args(Interpolation))
renderer_versions: st.SearchStrategy[RendererVersion] = st.sampled_from(get_args(RendererVersion))
shares = st.floats(0.0, 1.0)
colors = st.tuples(*[st.integers(0, 255)] * 3)


def ranges(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


WARPED = {"interpolation": interpolations, "fill": colors}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "random_resized_crop": {"scale": ranges(0.001, 1.0), "ratio": ranges(0.05, 20.0)},
    "center_crop": {"crop_fraction": st.floats(0.01, 1.0)},
    "random_crop": {"padding_px": st.integers(0, 20), "reference_px": st.integers(21, 300), "fill": colors},
    "resize_pad": {"fill": colors},
    "random_scale_crop": {
        "ratio_range": ranges(0.1, 10.0),
        "max_aspect": st.floats(1.0, 100.0),
        "cat_max_ratio": st.none() | st.floats(0.05, 0.95),
        "ignore_label": st.sampled_from([0, 255]),
        "fill": colors,
    },
    "photometric_distortion": {
        "brightness_delta": st.floats(0.0, 255.0),
        "contrast_range": ranges(0.0, 10.0),
        "saturation_range": ranges(0.0, 10.0),
        "hue_delta": st.floats(0.0, 90.0),
        "probability": shares,
    },
    "horizontal_flip": {"probability": shares},
    "vertical_flip": {"probability": shares},
    "color_jitter": {
        **dict.fromkeys(("brightness", "contrast", "saturation", "probability"), shares),
        "hue": st.floats(0.0, 0.5),
    },
    "random_grayscale": {"probability": shares},
    "gaussian_blur": {"sigma": ranges(0.0, 8.0), "reference_px": st.integers(32, 512), "probability": shares},
    "solarize": {"threshold": shares, "probability": shares},
    "posterize": {"bits": st.integers(0, 8), "probability": shares},
    "equalize": {"probability": shares},
    "autocontrast": {"probability": shares},
    "sharpness": {"factor": st.floats(0.0, 20.0), "probability": shares},
    "invert": {"probability": shares},
    "random_affine": {
        "degrees": ranges(-360.0, 360.0),
        # mild ones as well: of most of the others nothing of the image is left in the view
        "translate": st.tuples(st.floats(0.0, 0.2), st.floats(0.0, 0.2)) | st.tuples(shares, shares),
        "scale": ranges(0.5, 2.0) | ranges(0.05, 20.0),
        "shear": (
            st.tuples(ranges(-30.0, 30.0), ranges(-30.0, 30.0)) | st.tuples(ranges(-80.0, 80.0), ranges(-80.0, 80.0))
        ).map(lambda pairs: pairs[0] + pairs[1]),
        "probability": shares,
        **WARPED,
    },
    "random_perspective": {"distortion_scale": shares, "probability": shares, **WARPED},
    "trivial_augment_wide": {"reference_px": st.integers(8, 512), **WARPED},
    "random_erasing": {
        "scale": ranges(0.01, 0.5),
        "ratio": ranges(0.6, 1.6),
        "value": st.sampled_from(["zero", "mean", "noise"]),
        "probability": shares,
    },
    "random_interpolation": {"choices": st.lists(interpolations, min_size=1, max_size=3).map(tuple)},
}
RAND_AUGMENT = {
    "num_ops": st.integers(0, 4),
    "probability": shares,
    "interpolations": st.lists(interpolations, min_size=1, max_size=3).map(tuple),
    "fill": colors,
}
TIMM_AUGMENT = {
    **RAND_AUGMENT,
    "magnitude": st.floats(0.0, 10.0),
    "magnitude_std": st.floats(0.0, 5.0),
    "increasing": st.booleans(),
}
TORCHVISION_AUGMENT = {
    **RAND_AUGMENT,
    "source": st.just("torchvision"),
    "magnitude": st.integers(0, 30).map(float),
}


def operations(kind: str) -> st.SearchStrategy[Any]:
    """Any valid operation of one kind."""
    model, named = OPERATIONS[kind], st.just(kind)
    if kind == "rand_augment":
        return st.builds(model, kind=named, **TIMM_AUGMENT) | st.builds(model, kind=named, **TORCHVISION_AUGMENT)
    return st.builds(model, kind=named, **FIELDS.get(kind, {}))


@st.composite
def policies(draw: st.DrawFn, *, mixed: bool | None = None, of: tuple[str, ...] = OTHER_KINDS) -> Policy:
    """Any policy of operations of these kinds; `mixed` False: without a mix, True: with one, which mixes every view."""
    kinds = draw(st.lists(st.sampled_from(of), max_size=4))
    once = [kind for at, kind in enumerate(kinds) if kind != "random_interpolation" or kind not in kinds[:at]]
    alphas = st.just(0.0) | st.floats(0.01, 1.0)
    mix = None
    if mixed or (mixed is None and draw(st.booleans())):
        cutmix_alpha = draw(alphas)
        mix = Mix(
            mixup_alpha=draw(alphas if cutmix_alpha else st.floats(0.01, 1.0)),
            cutmix_alpha=cutmix_alpha,
            switch_probability=draw(shares),
            probability=1.0 if mixed else draw(shares),
        )
    return Policy(
        name="drawn",
        operations=tuple(draw(operations(kind)) for kind in (draw(st.sampled_from(CROP_KINDS)), *once)),
        mix=mix,
        digest_size_px=draw(st.sampled_from([(32, 32), (1, 1), (16, 24)])),
        renderer_version=draw(renderer_versions),
    )


@st.composite
def preset_policies(draw: st.DrawFn, names: tuple[str, ...] = tuple(PRESETS)) -> Policy:
    """A preset under either renderer; one kind of it where it has several."""
    name, version = draw(st.sampled_from(names)), draw(renderer_versions)
    policy = Policy.model_validate({"preset": name, "renderer_version": version})
    return policy.of_kind(draw(st.sampled_from(policy.kind_names)))

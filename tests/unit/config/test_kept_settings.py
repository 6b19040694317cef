"""`views.keep: pixels` in a recipe: what its settings mean, and which do not go together."""

from pathlib import Path

import pytest

from kd_ray.config.kept import KeptFormat
from kd_ray.config.load import load_recipe
from kd_ray.config.views import NAMELESS
from kd_ray.errors import RecipeError
from tests.support.recipes import write

PIXELS = ("views.keep=pixels", "views.pixels_size_px=[48,64]")


def test_params_alone_are_kept_by_default(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path)).views.kept(NAMELESS) is None


@pytest.mark.parametrize(
    ("overrides", "codec", "quality"),
    [
        ((), "jpeg", 95),
        (("views.pixels_quality=80",), "jpeg", 80),
        (("views.pixels_codec=webp", "views.pixels_quality=100"), "webp", 100),
        (("views.pixels_codec=raw",), "raw", None),
    ],
)
def test_the_format_of_kept_pixels(tmp_path: Path, overrides: tuple[str, ...], codec, quality) -> None:
    recipe = load_recipe(write(tmp_path), [*PIXELS, *overrides])
    assert recipe.views.kept(NAMELESS) == KeptFormat(size_px=(48, 64), codec=codec, quality=quality)


def test_every_setting_of_pixels_that_are_not_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="3 mistakes") as caught:
        load_recipe(write(tmp_path), [PIXELS[1], "views.pixels_codec=webp", "views.pixels_quality=9"])
    for name in ("size_px", "codec", "quality"):
        assert f"views.pixels_{name}: does not fit together; no pixels are kept: views.keep is params" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("views.keep=pixels",), "views.pixels_size_px: does not fit together; keep: pixels needs the (height, width)"),
        ((*PIXELS, "views.pixels_codec=raw", "views.pixels_quality=90"), "views.pixels_quality: does not fit together"),
        ((*PIXELS, "views.pixels_quality=0"), "views.pixels_quality: got 0"),
        ((*PIXELS, "views.pixels_quality=101"), "views.pixels_quality: got 101"),
        ((*PIXELS, "views.pixels_codec=png"), "views.pixels_codec: got 'png'; allowed: raw, webp, jpeg"),
        (("views.keep=pixel",), "views.keep: got 'pixel'; allowed: params, pixels"),
        (
            (*PIXELS, "views.policy=dino_multicrop"),
            "views.pixels_size_px: does not fit together; every kind",
        ),
    ],
)
def test_refusals(tmp_path: Path, overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path), overrides)
    assert told in str(caught.value)

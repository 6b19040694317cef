"""One view with the images that it is made of."""

from dataclasses import dataclass

from kd_ray.config.views import NEWEST_RENDERER, Interpolation, RendererVersion
from kd_ray.views.color import Pixels
from kd_ray.views.params import ViewParams
from kd_ray.views.render import render


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Params with the decoded upright image [H, W, 3], and the partner's where the view is mixed."""

    params: ViewParams
    image_HW3: Pixels
    partner_HW3: Pixels | None = None
    renderer_version: RendererVersion = NEWEST_RENDERER

    def render(self, size_px: tuple[int, int], interpolation: Interpolation) -> Pixels:
        """The view at `size_px` (height, width), as `kd_ray.views.render` gives it."""
        return render(
            self.image_HW3,
            self.params,
            size_px=size_px,
            interpolation=interpolation,
            renderer_version=self.renderer_version,
            partner_HW3=self.partner_HW3,
        )

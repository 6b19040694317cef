"""A contact sheet as one HTML page that needs nothing but itself: no script, no font, no file beside it."""

import base64
import io
import json

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from kd_ray.evaluate.contact_sheet import SeenView, Sheet
from kd_ray.evaluate.whole_image import color_of, ink_on
from kd_ray.views import params_to_json


def sheet_html(sheet: Sheet) -> str:
    """The page; views are there at their own pixels, as PNG, and enlarged by the browser in whole factors."""
    environment = Environment(
        loader=PackageLoader("kd_ray.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("views.html.jinja").render(
        sheet=sheet,
        data_uri=_data_uri,
        params_json=_params_json,
        color_of=color_of,
        ink_on=ink_on,
    )


def _data_uri(pixels_HW3: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _params_json(view: SeenView) -> str:
    """What a view set stores of the view, one operation a line."""
    operations = json.loads(params_to_json(view.params))
    return "[\n" + ",\n".join(json.dumps(operation) for operation in operations) + "\n]"

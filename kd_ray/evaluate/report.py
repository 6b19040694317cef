"""The report: one self-contained HTML page of a run."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from kd_ray.evaluate.curves import HISTORY, curves_svg


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """What the page shows; tables are rows of texts under headings. `comparison` is of several students."""

    title: str
    summary: str
    results: tuple[Sequence[str], Sequence[Sequence[str]]]
    stages: tuple[Sequence[str], Sequence[Sequence[str]]]
    facts: Mapping[str, str]
    histories: Mapping[str, HISTORY]
    levels: Mapping[str, float]
    contact_sheet_png: bytes
    contact_sheet_caption: str
    recipe_yaml: str
    comparison: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    comparison_svg: str | None = None


def render_report(content: ReportContent) -> str:
    """The page; needs nothing but itself to be shown."""
    environment = Environment(
        loader=PackageLoader("kd_ray.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        content=content,
        curves=curves_svg(content.histories, levels=content.levels),
        contact_sheet=base64.b64encode(content.contact_sheet_png).decode(),
    )

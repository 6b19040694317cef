"""Colours that fill what no image covers."""

from typing import Annotated

from pydantic import Field

Level = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[tuple[Level, Level, Level], Field(description="red, green, blue")]
IMAGENET_MEAN: Color = (124, 116, 104)  # timm fills with it: round(255 * (0.485, 0.456, 0.406))
BLACK: Color = (0, 0, 0)

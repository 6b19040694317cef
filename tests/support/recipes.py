"""A small valid recipe, written to a file with whatever a test changes."""

from pathlib import Path
from textwrap import dedent

VALID = """\
name: small
out: out/small
corpus: {kind: folder, uri: images, packed_uri: "${out}/corpus"}
views:
  count: 2
  policy:
    name: plain
    operations:
      - {kind: random_resized_crop}
      - {kind: horizontal_flip}
teacher:
  model: {kind: timm, name: resnet18, pretrained: true}
  input: {size_px: [32, 32]}
  outputs:
    logits: {codec: float16}
cache: {uri: "${out}/cache"}
student:
  model: {kind: cifar_resnet, depth: 8}
  input: {size_px: [32, 32]}
train:
  losses:
    - {kind: kd, temperature: 2.0}
  epochs: 3
"""


def write(folder: Path, text: str = VALID, *, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    return path


def line_of(path: Path, text: str) -> str:
    """`path:line` of the only line that contains `text`."""
    (number,) = (i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1) if text in line)
    return f"{path}:{number}"

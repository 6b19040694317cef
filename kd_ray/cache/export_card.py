"""The card of an export: a README.md that says what it is, how to read it, and nothing that is not known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from kd_ray.cache.codecs import Coding
from kd_ray.cache.export import SUFFIXES, Format
from kd_ray.cache.statistics import ChannelStatistics

# As the Hugging Face Hub names them: more than, up to.
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
    (100_000_000_000, "10B<n<100B"),
    (1_000_000_000_000, "100B<n<1T"),
)
NOT_STATED = "Not stated."
HOW_DECODED = {
    "float32": "`values` as they are.",
    "float16": "`values` as they are.",
    "bfloat16": "`values` are the upper halves of float32: `(values.astype('<u4') << 16).view('<f4')`.",
    "int8": (
        "`values * scale * deviation + mean`: one `scale` for each vector over the last axis, `mean` and `deviation` "
        "by channel from `calibration.json` (base64 of little-endian float32)."
    ),
    "uint8": "`maximum - values * step`: one `maximum` and one `step` for each vector over the last axis.",
    "top_k": (
        "`values` are logits less `maximum`, of the classes `indices`, the greatest first; `log_sum_exp` is that of "
        "all logits less `maximum`, over each of the temperatures T: `exp(values / T - log_sum_exp)` are probabilities."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What only the publisher knows; None is not stated."""

    license: str | None = None
    author: str | None = None
    cite: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything a card tells. `identity` is the output's with those of target set and views written out."""

    name: str
    identity: Mapping[str, Any]
    fingerprint: str
    split: str
    format: Format
    as_stored: bool
    num_samples: int
    num_views: int
    num_units: int
    num_units_wanted: int
    num_files: int
    shapes: Mapping[str, tuple[int, ...]]
    statistics: ChannelStatistics
    classes: Sequence[str] | None
    said: Said
    version: str

    def text(self) -> str:
        """Markdown, with the head of a Hugging Face dataset card."""
        return f"---\n{self._head()}---\n\n{self._body()}"

    def reading(self) -> str:
        """The program that the card gives; it runs in the folder of the card."""
        pattern = f"data/{self.split}-*.{SUFFIXES[self.format]}"
        if self.format == "parquet":
            name, shape = "values", self.shapes["values"]
            return (
                "import glob\n\n"
                "import pyarrow.parquet as pq\n\n"
                f'table = pq.read_table(sorted(glob.glob("{pattern}")))\n'
                f'{name} = table["{name}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)'
                f".reshape(-1, {', '.join(map(str, shape))})\n"
                'sample_ids, view_indices = table["sample_id"].to_numpy(), table["view_index"].to_numpy()\n'
            )
        return (
            "import glob, io, json, tarfile\n\n"
            "import numpy as np\n\n"
            "arrays, about = {}, {}\n"
            f'for path in sorted(glob.glob("{pattern}")):\n'
            "    with tarfile.open(path) as tar:\n"
            "        for member in tar:\n"
            '            key, kind = member.name.split(".", 1)\n'
            "            data = tar.extractfile(member).read()\n"
            '            if kind == "json":\n'
            "                about[key] = json.loads(data)\n"
            "            else:\n"
            "                arrays[key, kind] = np.load(io.BytesIO(data))\n"
        )

    def _head(self) -> str:
        head: dict[str, Any] = {
            "pretty_name": self.name,
            "tags": ["knowledge-distillation", "features", "kd_ray"],
            "size_categories": [next((name for most, name in SIZES if self.num_views < most), "n>1T")],
        }
        if self.said.license is not None:
            head["license"] = self.said.license
        pattern = f"data/{self.split}-*.{SUFFIXES[self.format]}"
        head["configs"] = [{"config_name": "default", "data_files": [{"split": self.split, "path": pattern}]}]
        return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)

    def _body(self) -> str:
        target_set = self.identity["target_set"]
        views = target_set["view_set"]
        coding = Coding.from_identity(self.identity)
        shape = " × ".join(map(str, self.identity["shape"]))
        whole = self.num_units == self.num_units_wanted
        parts = {
            f"# {self.name}": (
                f"The {self.identity['output']} ({shape}) of one teacher for {self.num_views:,} views of "
                f"{self.num_samples:,} images, exported by kd_ray {self.version} from a cache. "
                + ("" if whole else f"**Only {self.num_units} of {self.num_units_wanted} units had been computed.** ")
                + f"Split: {self.split}; {self.num_files} files. No images are in it: a sample is named by its id."
            ),
            "## How to read it": f"```python\n{self.reading()}```\n\n{self._columns(coding)}",
            "## Teacher": _json(target_set["teacher"]),
            "## Views": (
                "`params` say for each view what was done to the upright image, boxes in fractions of it; `digest` is "
                f"BLAKE2b-128 of its pixels at {views['digest_size_px']}.\n\n{_json(views)}"
                if isinstance(views, dict)
                else f"View set {views}."
            ),
            "## Corpus": f"`{target_set['corpus_id']}`; a `sample_id` is the first 64 bits of the SHA-256 of its image."
            + ("" if self.classes is None else f" Classes by label: {', '.join(self.classes) or 'none'}."),
            "## Values": self._values(coding),
            "## License": self.said.license or NOT_STATED,
            "## Author": self.said.author or NOT_STATED,
            "## Citation": self.said.cite or NOT_STATED,
        }
        return "\n\n".join(f"{heading}\n\n{text}" for heading, text in parts.items()) + "\n"

    def _columns(self, coding: Coding) -> str:
        label = "" if self.classes is None else ", `label`"
        told = ", ".join(f"`{name}` {list(shape)}" for name, shape in self.shapes.items())
        how = (
            f"Arrays are as stored ({coding.codec}): {HOW_DECODED[coding.codec]}"
            if self.as_stored
            else "They are decoded."
        )
        temperatures = f" T: {', '.join(f'{each:g}' for each in coding.temperatures)}." if coding.temperatures else ""
        return (
            f"One row a view: `sample_id`, `view_index`, `params`, `digest`{label} and, of each view flattened in this "
            f"order of axes, {told}. {how}{temperatures}"
        )

    def _values(self, coding: Coding) -> str:
        found, deviation_D = self.statistics, np.sqrt(self.statistics.variance)
        return (
            f"Stored as {coding.codec}, {coding.bytes_per_view:,} bytes a view; output `{self.fingerprint}`. "
            f"{len(found.mean):,} channels of {found.count:,} values each, before the codec: means from "
            f"{found.mean.min():.4g} to {found.mean.max():.4g}, deviations from {deviation_D.min():.4g} to "
            f"{deviation_D.max():.4g}, least value {found.minimum.min():.4g}, greatest {found.maximum.max():.4g}."
        )


def _json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=1, ensure_ascii=False)}\n```"

"""What a person reads of an exported student: README.md with the metadata of Hugging Face's hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CARD_NAME = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """Where a student comes from: `teachers` say which they are, `targets` are fingerprints of what it learnt from."""

    name: str
    teachers: Mapping[str, str]
    corpus_id: str
    targets: Mapping[str, str]
    policy: str
    metrics: Mapping[str, float]
    recipe_yaml: str


def model_card(
    facts: CardFacts,
    *,
    architecture: str,
    in_timm: bool,
    num_classes: int,
    files: Mapping[str, str],
    size_px: tuple[int, int],
) -> str:
    """The card; `files` says what each file of the folder is. Its licence is left to whoever publishes it."""
    metadata = [
        "---",
        "# license: choose one; the data and the teachers may bind you",
        f"library_name: {'timm' if in_timm else 'pytorch'}",
        f"pipeline_tag: {'image-classification' if num_classes else 'image-feature-extraction'}",
        "tags:",
        *(["- timm"] if in_timm else []),
        "- knowledge-distillation",
        "---",
    ]
    head = f"{architecture} for {size_px[0]}×{size_px[1]} px, " + (
        f"{num_classes} classes." if num_classes else "without a classifier: it gives features (num_classes 0)."
    )
    usage = (
        ["```python", "import timm", "", 'model = timm.create_model("local-dir:<this folder>", pretrained=True)', "```"]
        if in_timm
        else ["`config.json` says how the network is built; `model.safetensors` has its state by name."]
    )
    return "\n".join(
        [
            *metadata,
            "",
            f"# {facts.name}",
            "",
            head,
            "",
            *usage,
            "",
            "## Files",
            "",
            *_table(("file", "what it is"), list(files.items())),
            "",
            "## Where it comes from",
            "",
            *_table(
                ("", ""),
                [
                    *((f"teacher {name}", told) for name, told in facts.teachers.items()),
                    ("corpus", facts.corpus_id),
                    *((f"targets of {name}", fingerprint) for name, fingerprint in facts.targets.items()),
                    ("view policy", facts.policy),
                ],
            ),
            "",
            "## Metrics",
            "",
            *_table(("metric", "value"), [(name, f"{value:.6g}") for name, value in facts.metrics.items()]),
            "",
            "## Recipe",
            "",
            "```yaml",
            facts.recipe_yaml.rstrip(),
            "```",
            "",
        ]
    )


def _table(headings: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    cells = [f"| {headings[0]} | {headings[1]} |", "|---|---|"]
    return cells + [f"| {_cell(one)} | {_cell(other)} |" for one, other in rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

"""Values in messages."""

MAX_CHARACTERS = 160


def shortened(value: object) -> str:
    """A value as it would be written, cut where it is long."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."

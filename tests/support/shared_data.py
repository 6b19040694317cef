"""Real images and teachers beside the project, for the tests that use them; nothing depends on their being there."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """The path of shared data, or a skip that says what is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} of the data folder beside the project, which is absent here")
    return path

"""A listening server with its executor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.listening import Listening


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    """Nothing of it runs yet; what was started is ended."""
    made = Listening(tmp_path)
    yield made
    made.stop()

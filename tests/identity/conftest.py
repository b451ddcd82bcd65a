"""A PKI, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.pki import Pki, make_pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path)


@pytest.fixture
def problems() -> list[str]:
    return []

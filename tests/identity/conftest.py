"""A PKI, and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobworker.server.identity.gate import Identity
from tests.harness.pki import Pki, make_pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path)


@pytest.fixture
def problems() -> list[str]:
    return []


def start(pki: Pki, problems: list[str]) -> Identity:
    """The front door of a PKI."""
    return Identity(
        pki=pki.root,
        logged_out=pki.root / "logged-out.json",
        trust_domain="jobworker",
        token_lifetime_seconds=900,
        clock=now,
        monotonic=now,
        on_problem=problems.append,
    )


def now() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()

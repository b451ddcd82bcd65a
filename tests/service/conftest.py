"""Fixtures of the tests of the whole service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.service import Api, Service
from tests.harness.wait import until


@pytest.fixture
def unharmed(shared_service: Service, alice: Api) -> Iterator[None]:
    """After each test nothing is left of what was refused, and a good batch runs."""
    server = shared_service.child("server")
    yield
    assert alice.wait(alice.submit("true")).counts.succeeded == 1
    until(lambda: not any((shared_service.data / "active").iterdir()), "no unfinished batch is left")
    assert not any((shared_service.data / "trash").iterdir())
    assert shared_service.child("server") == server

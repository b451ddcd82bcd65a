"""A user who is logged in, and one who is not yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.jobctl import Jobctl
from tests.harness.service import Service


@pytest.fixture(scope="session")
def jobctl(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Jobctl:
    return Jobctl(shared_service, tmp_path_factory.mktemp("cache")).login()


@pytest.fixture
def newcomer(shared_service: Service, tmp_path: Path) -> Jobctl:
    return Jobctl(shared_service, tmp_path / "cache", user="bob")

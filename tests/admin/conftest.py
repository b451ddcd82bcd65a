"""A service with a configuration file, and its administrator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.admin import Admin
from tests.harness.service import Service


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """What the `configured` service reads; it begins with a comment alone."""
    file = tmp_path / "etc" / "jobworker.toml"
    file.parent.mkdir()
    file.write_text("# nothing yet\n")
    return file


@pytest.fixture
def configured(tmp_path: Path, config_file: Path) -> Iterator[Service]:
    """A service that was started with the file."""
    service = Service(tmp_path / "service", CONFIG=str(config_file))
    try:
        yield service.start()
    finally:
        service.stop()


@pytest.fixture
def admin(configured: Service) -> Admin:
    """Its administrator."""
    return Admin(configured)


@pytest.fixture
def write(config_file: Path) -> Callable[[str], object]:
    """Writes the file in place."""
    return config_file.write_text

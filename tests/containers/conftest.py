"""An engine, the images of this tree, and a compose project of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.harness import compose
from tests.harness.compose import Stack


@pytest.fixture(scope="session")
def engine() -> str:
    """Its DOCKER_HOST, which is in the environment from then on."""
    os.environ["DOCKER_HOST"] = host = compose.engine()
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # its image cannot be had everywhere
    return host


@pytest.fixture(scope="session")
def images(engine: str) -> str:
    """The tag of both images."""
    compose.build("test")
    return "test"


@pytest.fixture(scope="module")
def shared_stack(images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One project for the tests of a file."""
    with compose.stack(tmp_path_factory.mktemp("stack"), images) as made:
        yield made


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The shared one, with everything of it running again, whatever the test before did."""
    shared_stack.up()
    return shared_stack


@pytest.fixture(scope="session")
def newer_version(images: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tag of both images, made of a tree of another version."""
    compose.build("newer", compose.context_of_version(tmp_path_factory.mktemp("newer"), "9.9.9"))
    return "newer"

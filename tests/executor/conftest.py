"""Executors for the tests of this room: the zipapp, run with and without its own namespaces."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.executor import bundle
from tests.harness.executor import Executor
from tests.harness.failcalls import FailCalls
from tests.harness.memory import limited_group


@pytest.fixture(scope="session")
def pyz() -> Iterator[Path]:
    """The zipapp, where every user can read it."""
    folder = Path(tempfile.mkdtemp(prefix="executor-"))
    folder.chmod(0o755)
    bundle.build(str(folder / "executor.pyz"))
    yield folder / "executor.pyz"
    shutil.rmtree(folder)


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group with a limit."""
    with limited_group() as folder:
        yield folder


@pytest.fixture(params=["auto", "none"])
def executor(request: pytest.FixtureRequest, pyz: Path, tmp_path: Path) -> Iterator[Executor]:
    """An attached executor, with and without isolation."""
    with Executor(pyz, tmp_path, "--isolate", request.param) as started:
        started.attach()
        yield started


@pytest.fixture
def plain(pyz: Path, tmp_path: Path) -> Iterator[Executor]:
    """One attached executor, for what isolation has no part in."""
    with Executor(pyz, tmp_path) as started:
        started.attach()
        yield started


@pytest.fixture
def calls(tmp_path: Path) -> FailCalls:
    """Calls that fail on demand, for whatever is started with its `env`."""
    return FailCalls(tmp_path)


@pytest.fixture
def failing(pyz: Path, tmp_path: Path, scratch: Path, calls: FailCalls) -> Iterator[Executor]:
    """An executor whose calls can be made to fail."""
    with Executor(pyz, tmp_path, "--work", str(scratch / "work"), env={**os.environ, **calls.env}) as executor:
        executor.attach()
        yield executor


def interpreters() -> list[str]:
    """This one, and others of the machine from the oldest on that the executor supports."""
    found = {os.path.realpath(sys.executable): sys.executable}
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in (9, 14):
        paths = [Path(f"/usr/bin/python3.{minor}"), *versions.glob(f"3.{minor}.*/bin/python3.{minor}")]
        found.update({os.path.realpath(path): str(path) for path in paths if path.exists()})
    return list(found.values())

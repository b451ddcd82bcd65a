"""Fixtures for every room."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2, query_pb2
from tests.harness.clockshift import ClockShift
from tests.harness.scratch import folder as scratch_folder
from tests.harness.service import Api, Service, running

# A shell that started this in the background has it ignored, and children would inherit that: Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What this machine lacks is said, and the rest of the tests run."""
    lacking = {
        "root": os.geteuid() != 0,
        "go": shutil.which("go") is None,
        "node": shutil.which("npm") is None,
    }
    # docker/engine brings one up on a Debian machine.
    lacking["engine"] = not (
        os.environ.get("DOCKER_HOST") or (os.geteuid() == 0 and shutil.which("apt-get") and shutil.which("dpkg"))
    )
    lacking["systemd"] = shutil.which("systemd-analyze") is None
    lacking["machine"] = not (shutil.which("systemd-nspawn") and shutil.which("debootstrap"))
    for item in items:
        for name, is_lacking in lacking.items():
            if is_lacking and item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=f"needs {name}"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip proves nothing, and fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def scratch() -> Path:
    """A folder that the test and jobs may write."""
    return scratch_folder()


@pytest.fixture
def alice(shared_service: Service) -> Iterator[Api]:
    """An operator of the shared service; whatever a test of hers left running is ended, so that it fails alone."""
    api = shared_service.api("alice")
    yield api
    unfinished = [job_pb2.BATCH_STATE_QUEUED, job_pb2.BATCH_STATE_RUNNING]
    for batch in api.query.ListBatches(query_pb2.ListBatchesRequest(state=unfinished), **api.call()).batches:
        api.cancel(batch.correlation_id)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own."""
    with running(tmp_path / "service") as own:
        yield own


@pytest.fixture
def clock(tmp_path: Path) -> ClockShift:
    """Clocks that jump, for whatever is started with its `env`."""
    return ClockShift(tmp_path)

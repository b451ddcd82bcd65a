"""What a service that has nothing to do takes of a processor."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.bench.process import Spent
from tests.bench.row import Row
from tests.bench.run import Run
from tests.harness.service import Service

SETTLE_SECONDS = 2.0


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    with run.service() as service:
        api = service.api("alice")
        api.wait(api.submit("true"))
        yield from idle(run, service, "idle service")


def idle(run: Run, service: Service, name: str) -> Iterator[Row]:
    """The rows of a service that is left alone."""
    time.sleep(SETTLE_SECONDS)
    before = Spent.now(service)
    time.sleep(run.size(30, 3))
    spent = Spent.now(service).since(before)
    for process, seconds in (("server", spent.server), ("executor", spent.executor)):
        yield Row(f"{name}, {process} CPU", seconds * 1e3 / spent.at, "ms/s")

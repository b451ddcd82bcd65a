"""What telemetry costs: jobs per second of a service whose metrics are scraped each second and whose traces are
exported, over one without, in turns."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

from tests.bench.batch import served
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.otlp import environment
from tests.harness.service import Service

ROUNDS = 5
SCRAPE_SECONDS = 1.0


@contextlib.contextmanager
def sink() -> Iterator[dict[str, str]]:
    """What has a service export to a receiver."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        variables = environment(f"http://127.0.0.1:{program.stdout.readline().strip()}")
        del variables["OTEL_BSP_SCHEDULE_DELAY"]
        yield variables
        program.stdin.close()


@contextlib.contextmanager
def scraped(service: Service) -> Iterator[None]:
    """Its metrics are read each second, as Prometheus does."""
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(SCRAPE_SECONDS):
            with urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=60) as answer:
                answer.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def small(service: Service, batches: int) -> float:
    """Batches of one job each per second, one after another: each with all its calls."""
    api = service.api("alice")
    began = time.perf_counter()
    for _ in range(batches):
        api.wait(api.submit("true"))
    return batches / (time.perf_counter() - began)


def measure(run: Run) -> Iterator[Row]:
    """The rows: each round a pair, of which the median stands."""
    jobs, batches = run.size(5000, 1000), run.size(300, 30)
    large: dict[str, list[float]] = {"off": [], "on": []}
    spent: dict[str, list[float]] = {"off": [], "on": []}
    single: dict[str, list[float]] = {"off": [], "on": []}
    with (
        sink() as variables,
        run.service("off", METRICS__ENABLED="false", TRACES__EXPORTER="none") as off,
        run.service("on", variables) as on,
        scraped(on),
    ):
        services = {"off": off, "on": on}
        for service in services.values():
            served(service, 500)
        for turn in range(run.size(ROUNDS, 1)):
            for name in ("off", "on") if turn % 2 else ("on", "off"):
                found = served(services[name], jobs)
                large[name].append(found.rate)
                spent[name].append(found.server_ms)
                single[name].append(small(services[name], batches))
            run.say(f"jobs a second: off {large['off'][-1]:.0f}, on {large['on'][-1]:.0f}")
    with_all, floor_is = "with metrics and traces", "without"
    for name, unit, sides, goal in (
        (f"batch of {jobs} `true`, {with_all}", "jobs/s", large, Goal(">=", 0.95)),
        (f"server CPU per job of it, {with_all}", "ms", spent, Goal("<=", 1.05)),
        (f"batches of one job one by one, {with_all}", "/s", single, Goal(">=", 0.95)),
    ):
        yield Row(name, statistics.median(sides["on"]), unit, statistics.median(sides["off"]), floor_is, goal)

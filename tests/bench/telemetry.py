"""What telemetry costs: jobs per second of a service whose metrics are scraped each second and whose traces are
exported, over one without, in turns."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.bench.throughput import served
from tests.harness.otlp import environment
from tests.harness.service import Service, running

JOBS = 5000
SMALL_BATCHES = 300
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


def small(service: Service) -> float:
    """Batches of one job each per second, one after another: each with all its calls."""
    api = service.api("alice")
    began = time.perf_counter()
    for _ in range(SMALL_BATCHES):
        api.wait(api.submit("true"))
    return SMALL_BATCHES / (time.perf_counter() - began)


def cpu_seconds(service: Service) -> float:
    """What the server process has used so far (proc(5): utime and stime)."""
    with open(f"/proc/{service.child('server')}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path) -> None:
    """Prints the ratios, pair by pair."""
    large, single, spent = [], [], []
    with (
        sink() as variables,
        running(folder / "off", METRICS__ENABLED="false", TRACES__EXPORTER="none") as off,
        running(folder / "on", variables=variables) as on,
        scraped(on),
    ):
        for service in (off, on):
            served(service, 500)
        for turn in range(ROUNDS):
            order = (off, on) if turn % 2 else (on, off)
            rates, cpu = {}, {}
            for service in order:
                before = cpu_seconds(service)
                rates[service] = served(service, JOBS)[0]
                cpu[service] = (cpu_seconds(service) - before) * 1e6 / JOBS
            slow = {service: small(service) for service in order}
            print(f"  jobs/s: off {rates[off]:.0f}, on {rates[on]:.0f}; server CPU us/job: off {cpu[off]:.0f}, "
                  f"on {cpu[on]:.0f}; single ones/s: off {slow[off]:.0f}, on {slow[on]:.0f}")  # fmt: skip
            large.append(rates[on] / rates[off])
            spent.append(cpu[off] / cpu[on])
            single.append(slow[on] / slow[off])
    print(f"telemetry: {JOBS} x true in a batch with metrics and traces over without (aim 0.95):")
    print(
        f"  {statistics.median(large):.2f} of the rate, by the server's CPU {statistics.median(spent):.2f}; "
        f"batches of one job each {statistics.median(single):.2f}"
    )

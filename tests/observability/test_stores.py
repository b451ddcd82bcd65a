"""From a CorrelationID to its trace and its log lines, by way of the repository's own configurations of the stores.

VictoriaLogs stands where Loki does: it takes the same OTLP.
"""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobworker.v1 import job_pb2
from tests.harness import gotools, otlp
from tests.harness.audit import verify
from tests.harness.http import SECONDS, answer, program
from tests.harness.service import Api, Service, free_port
from tests.harness.wait import until
from tests.observability.repo import DOCKER

pytestmark = pytest.mark.go

LONG_SECONDS = 120.0


class Stores:
    """Collector, Jaeger and VictoriaLogs around one service, each to be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in (
            "collector", "collector_http", "collector_health", "collector_metrics",
            "jaeger", "jaeger_query", "jaeger_grpc", "jaeger_health", "logs")}  # fmt: skip
        self._running = {name: ExitStack() for name in ("collector", "jaeger", "logs")}
        self.service = Service(
            folder / "service", otlp.environment(f"http://{self._at('collector')}"), LOGS__MAX_BYTES="65536"
        )

    def start(self) -> None:
        """All of them."""
        self.start_jaeger()
        self.start_logs()
        self.start_collector()
        self.service.start()

    def stop(self) -> None:
        """All of them."""
        self.service.stop()
        for name in ("collector", "jaeger", "logs"):
            self.end(name)

    def end(self, name: str) -> None:
        """Ends one."""
        self._running[name].close()

    def start_collector(self) -> None:
        """The repository's own configuration; the places are those that it takes from the environment."""
        self._start(
            "collector",
            [gotools.collector(), f"--config={DOCKER / 'otel' / 'collector.yaml'}"],
            ready=f"http://{self._at('collector_health')}/",
            OTLP_GRPC_LISTEN=self._at("collector"),
            OTLP_HTTP_LISTEN=self._at("collector_http"),
            HEALTH_LISTEN=self._at("collector_health"),
            METRICS_HOST="127.0.0.1",
            METRICS_PORT=str(self._ports["collector_metrics"]),
            LOGS_FOLDER=str(self.service.folder / "logs"),
            STORAGE_FOLDER=str(self._folder / "offsets"),
            JAEGER_ENDPOINT=self._at("jaeger"),
            LOGS_ENDPOINT=f"http://{self._at('logs')}/insert/opentelemetry/v1/logs",
        )

    def start_jaeger(self) -> None:
        """Likewise."""
        self._start(
            "jaeger",
            [gotools.jaeger(), f"--config={DOCKER / 'jaeger' / 'jaeger.yaml'}"],
            ready=f"http://{self._at('jaeger_query')}/api/services",
            OTLP_GRPC_LISTEN=self._at("jaeger"),
            QUERY_HTTP_LISTEN=self._at("jaeger_query"),
            QUERY_GRPC_LISTEN=self._at("jaeger_grpc"),
            HEALTH_LISTEN=self._at("jaeger_health"),
            STORAGE_FOLDER=str(self._folder / "badger"),
        )

    def start_logs(self) -> None:
        """In Loki's place."""
        self._start(
            "logs",
            [
                gotools.victoria_logs(),
                f"-httpListenAddr={self._at('logs')}",
                f"-storageDataPath={self._folder / 'victoria-logs'}",
            ],
            ready=f"http://{self._at('logs')}/health",
        )

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """As Jaeger's query API has it; None: it has none."""
        found = answer(f"http://{self._at('jaeger_query')}/api/traces/{trace_id}") or {}
        traces: list[dict[str, Any]] = found.get("data") or []
        return traces[0] if traces else None

    def lines(self, query: str) -> list[dict[str, Any]]:
        """Log lines, as LogsQL finds them."""
        data = urllib.parse.urlencode({"query": query, "limit": "1000"}).encode()
        url = f"http://{self._at('logs')}/select/logsql/query"
        with urllib.request.urlopen(url, data=data, timeout=SECONDS) as response:
            return [json.loads(line) for line in response.read().splitlines()]

    def metrics_of_the_collector(self) -> str:
        """Its own figures."""
        url = f"http://{self._at('collector_metrics')}/metrics"
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            text: str = response.read().decode()
            return text

    def _at(self, name: str) -> str:
        return f"127.0.0.1:{self._ports[name]}"

    def _start(self, name: str, command: list[str | Path], *, ready: str, **environment: str) -> None:
        started = program(command, ready=ready, folder=self._folder / name, environment={**os.environ, **environment})
        self._running[name].enter_context(started)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """All of them."""
    found = Stores(tmp_path_factory.mktemp("stores"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def api(stores: Stores) -> Api:
    """Alice."""
    return stores.service.api("alice")


@pytest.fixture(scope="module")
def batch(api: Api) -> str:
    """A batch of two jobs, one of which fails, that was followed to its end."""
    found = api.submit("echo hello", "exit 3", batch=job_pb2.BatchOptions(name="nightly"))
    for _ in api.follow(found):
        pass
    assert api.wait(found).state == job_pb2.BATCH_STATE_FAILED
    return found


def spans_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Each with its attributes and its parent's id."""
    for span in trace["spans"]:
        span["attributes"] = {tag["key"]: tag["value"] for tag in span["tags"]}
        span["parent"] = next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), "")
    found: list[dict[str, Any]] = trace["spans"]
    return found


def test_the_id_finds_the_trace_with_its_tree_of_spans(stores: Stores, batch: str) -> None:
    trace_id = batch.replace("-", "")

    def whole() -> list[dict[str, Any]] | None:
        trace = stores.trace(trace_id)
        spans = spans_of(trace) if trace is not None else []
        names = [span["operationName"] for span in spans]
        return spans if names.count("run") == 2 and any("StreamLogs" in name for name in names) else None

    spans = until(whole, f"the trace of {batch}", LONG_SECONDS)
    (root,) = [span for span in spans if not span["parent"]]
    assert root["operationName"] == "batch"
    assert root["traceID"] == trace_id
    assert root["attributes"]["jobworker.correlation_id"] == batch
    assert root["attributes"]["jobworker.batch.name"] == "nightly"
    assert root["attributes"]["error"] is True
    below = [span for span in spans if span["parent"] == root["spanID"]]
    assert sorted(s["operationName"] for s in below if "/" not in s["operationName"]) == (
        ["accept", "queue", "queue", "run", "run"]
    )
    assert {s["operationName"] for s in below if "/" in s["operationName"]} >= {
        "jobworker.v1.JobScheduleService/ExecuteJobs",
        "jobworker.v1.JobQueryService/StreamLogs",
    }
    assert len(below) == len(spans) - 1
    runs = {s["attributes"]["jobworker.job.index"]: s for s in below if s["operationName"] == "run"}
    assert [runs[index]["attributes"]["process.exit.code"] for index in (0, 1)] == [0, 3]
    assert runs[1]["attributes"]["error"] is True
    assert "error" not in runs[0]["attributes"]
    for wait in (span for span in below if span["operationName"] == "queue"):
        run = runs[wait["attributes"]["jobworker.job.index"]]
        assert abs(wait["startTime"] + wait["duration"] - run["startTime"]) <= 1  # us: one ends as the other begins


def test_the_id_finds_the_log_lines_with_how_the_jobs_ended(stores: Stores, batch: str) -> None:
    def ended() -> list[dict[str, Any]] | None:
        found = stores.lines(f'correlation_id:="{batch}" event:="job ended"')
        return found if len(found) == 2 else None

    lines = until(ended, f"the lines of {batch}", LONG_SECONDS)
    jobs = {line["job_index"]: line for line in lines}
    assert [(jobs[i]["state"], jobs[i]["exit_code"]) for i in ("0", "1")] == [("SUCCEEDED", "0"), ("FAILED", "3")]
    for line in lines:
        assert line["_msg"] == "job ended"
        assert line["service.name"] == "jobworker"
        assert line["user"] == "alice"
        assert line["severity_text"] == "info"


def test_the_trace_finds_its_log_lines(stores: Stores, batch: str) -> None:
    """What a click on a span asks for."""
    by_id = f'correlation_id:="{batch}" event:*'  # not those of the audit log
    until(
        lambda: any("StreamLogs" in line.get("method", "") for line in stores.lines(by_id)), "all lines", LONG_SECONDS
    )
    by_trace = stores.lines(f'trace_id:="{batch.replace("-", "")}"')
    assert sorted(map(_key, by_trace)) == sorted(map(_key, stores.lines(by_id)))


def test_a_callers_own_trace_finds_the_call_and_its_log_lines(stores: Stores, api: Api) -> None:
    caller, span = os.urandom(16).hex(), "00f067aa0ba902b7"
    found = api.submit("true", metadata=[("traceparent", f"00-{caller}-{span}-01")])
    api.wait(found)
    spans = spans_of(until(lambda: stores.trace(caller), "the caller's trace", LONG_SECONDS))
    assert [s["operationName"] for s in spans] == ["jobworker.v1.JobScheduleService/ExecuteJobs"]
    assert spans[0]["attributes"]["jobworker.correlation_id"] == found
    lines = until(lambda: stores.lines(f'caller_trace_id:="{caller}"'), "its lines", LONG_SECONDS)
    assert {line["correlation_id"] for line in lines} == {found}


def test_a_line_has_the_time_and_severity_that_it_was_written_with(stores: Stores, batch: str) -> None:
    line = until(lambda: stores.lines(f'correlation_id:="{batch}" event:="job ended"'), "a line", LONG_SECONDS)[0]
    written = next(
        one
        for text in (stores.service.folder / "logs").glob("service.jsonl*")
        for one in map(json.loads, text.read_text().splitlines())
        if one.get("correlation_id") == batch
        and one["event"] == "job ended"
        and str(one["job_index"]) == line["job_index"]
    )
    assert datetime.fromisoformat(line["_time"]) == datetime.fromisoformat(written["timestamp"])


def test_lines_are_neither_lost_nor_doubled_while_the_log_is_rotated(stores: Stores, api: Api) -> None:
    ids = []
    logs = stores.service.folder / "logs"
    while len(list(logs.glob("service.jsonl.*"))) < 2:
        ids.append(api.submit("true"))
    for one in ids:
        api.wait(one)
    _each_ended_once(stores, ids)


def test_lines_are_kept_while_the_log_store_and_the_collector_are_away(stores: Stores, api: Api) -> None:
    stores.end("logs")
    ids = [api.submit("true") for _ in range(3)]
    for one in ids:
        api.wait(one)
    stores.end("collector")
    more = [api.submit("true") for _ in range(3)]
    for one in more:
        api.wait(one)
    stores.start_logs()
    stores.start_collector()
    _each_ended_once(stores, ids + more)


def test_traces_are_kept_over_a_restart_of_jaeger(stores: Stores, api: Api) -> None:
    found = api.submit("true")
    api.wait(found)
    until(lambda: stores.trace(found.replace("-", "")), "its trace", LONG_SECONDS)
    stores.end("jaeger")
    stores.start_jaeger()
    assert stores.trace(found.replace("-", ""))


def test_what_is_no_json_is_passed_on_as_it_is(stores: Stores) -> None:
    logs = stores.service.folder / "logs"
    (logs / "service.jsonl.0").write_text("a line that a crash tore\n")
    found = until(lambda: stores.lines('_msg:="a line that a crash tore"'), "the line", LONG_SECONDS)
    assert found[0]["service.name"] == "jobworker"


def test_the_audit_log_comes_as_it_was_written_and_can_be_verified(
    stores: Stores, api: Api, batch: str, tmp_path: Path
) -> None:
    """A change on the service's machine would be seen by what the store has."""
    found = until(lambda: stores.lines(f'what:="submit" correlation_id:="{batch}"'), "its line", LONG_SECONDS)
    assert [line["service.name"] for line in found] == ["jobworker-audit"]
    assert found[0]["user"] == "alice"
    sent = {int(line["n"]): line["_msg"] for line in stores.lines("what:* n:*")}
    assert sorted(sent) == list(range(1, len(sent) + 1))
    copy = tmp_path / "from-the-store.jsonl"
    copy.write_text("".join(f"{sent[number]}\n" for number in sorted(sent)))
    done = verify(copy)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_collector_tells_its_own_figures(stores: Stores, batch: str) -> None:
    assert "otelcol_receiver_accepted_spans" in stores.metrics_of_the_collector()


def _each_ended_once(stores: Stores, ids: list[str]) -> None:
    def counts() -> dict[str, int]:
        found = stores.lines('event:="job ended" | stats by (correlation_id) count() as lines')
        return {line["correlation_id"]: int(line["lines"]) for line in found}

    until(lambda: set(ids) <= set(counts()), f"the ends of {len(ids)} batches", LONG_SECONDS)
    known = counts()
    assert {known[one] for one in ids} == {1}


def _key(line: dict[str, Any]) -> tuple[str, str]:
    return line["_time"], line["_msg"]

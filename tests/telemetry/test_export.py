"""Where spans go, and what it costs when nobody takes them: nothing but the spans."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from tests.harness import otlp
from tests.harness.otlp import http_receiver, receiver
from tests.harness.service import Service, free_port, running
from tests.harness.wait import until


def counted(service: Service) -> dict[str, int]:
    """jobworker_spans_exported_total."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = re.findall(r'^jobworker_spans_exported_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {outcome: int(float(value)) for outcome, value in found}


def lines(service: Service, event: str) -> list[dict[str, object]]:
    text = (service.folder / "logs" / "service.jsonl").read_text()
    return [found for found in map(json.loads, text.splitlines()) if found["event"] == event]


def test_http_is_spoken_where_the_environment_says_so(tmp_path: Path) -> None:
    with http_receiver() as (received, variables), running(tmp_path / "service", variables=variables) as service:
        api = service.api()
        batch = api.submit("true", "false")
        api.wait(batch)
        assert received.root(batch).error
        assert len(received.named(batch, "run")) == 2


def test_the_environment_names_the_service_and_the_bounds(tmp_path: Path) -> None:
    with receiver() as found:
        variables = {
            **found.environment, "OTEL_SERVICE_NAME": "jobs-of-hall-3", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.version=9",
        }  # fmt: skip
        with running(tmp_path / "service", variables=variables) as service:
            api = service.api()
            batch = api.submit(*["true"] * 5)
            api.wait(batch)
            resource = found.received.root(batch).resource
            assert resource["service.name"] == "jobs-of-hall-3"
            assert (resource["deployment.environment"], resource["service.version"]) == ("test", "9")
            assert found.received.requests >= 6


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_there_are_no_traces_where_the_environment_forbids_them(tmp_path: Path, variables: dict[str, str]) -> None:
    with receiver() as found:
        with running(tmp_path / "service", variables={**found.environment, **variables}) as service:
            api = service.api()
            batch = api.submit("printf %s $TRACEPARENT")
            api.wait(batch)
            assert api.log(batch).startswith(f"00-{batch.replace('-', '')}-".encode())
        assert not found.received.all()  # not at the stop either


def test_what_is_left_is_sent_at_the_stop(tmp_path: Path) -> None:
    with receiver() as found:
        variables = {**found.environment, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with running(tmp_path / "service", variables=variables) as service:
            api = service.api()
            batch = api.submit("true")
            api.wait(batch)
        assert found.received.named(batch, "run")


def test_a_receiver_that_is_not_there_is_told_once_and_once_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    variables = {**otlp.environment(f"http://127.0.0.1:{port}"), "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with running(tmp_path / "service", variables=variables) as service:
        api = service.api()
        for _ in range(3):
            failed = counted(service)["failed"]
            batch = api.submit("true")
            assert api.wait(batch).counts.succeeded == 1
            until(lambda before=failed: counted(service)["failed"] > before, "spans fail")  # type: ignore[misc]
        (line,) = lines(service, "spans are not taken")
        assert line["endpoint"] == f"http://127.0.0.1:{port}"
        assert "UNAVAILABLE" in str(line["problem"]) or "DEADLINE" in str(line["problem"])
        assert "Traceback" not in service.output()
        assert "opentelemetry" not in service.output()
        with receiver(port) as found:

            def comes() -> bool:
                batch = api.submit("true")
                api.wait(batch)
                return bool(found.received.all())

            until(comes, "spans are taken again")
            until(lambda: lines(service, "spans are taken again"), "which is told")
            until(lambda: counted(service)["exported"] > 0)
        assert len(lines(service, "spans are not taken")) == 1


def test_a_receiver_that_hangs_stops_nothing(tmp_path: Path) -> None:
    with receiver() as found:
        variables = {**found.environment, "OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
        service = Service(tmp_path / "service", variables).start()
        try:
            api = service.api()
            found.hold()
            api.wait(api.submit("true"))
            until(lambda: found.waiting, "the receiver hangs")
            for _ in range(20):
                assert api.wait(api.submit("true")).counts.succeeded == 1
            until(lambda: counted(service)["dropped"] > 0, "more than the queue takes is dropped")
            api.close()
        finally:
            # Calls are over, and the executor has no jobs: what may still take its time are the spans.
            assert service.stop() == 0
        assert found.waiting <= 1


def test_an_exporter_that_cannot_be_made_is_told_and_the_service_runs(tmp_path: Path) -> None:
    variables = otlp.environment("http://127.0.0.1:1", "carrier-pigeon")
    with running(tmp_path / "service", variables=variables) as service:
        api = service.api()
        assert api.wait(api.submit("true")).counts.succeeded == 1
        (line,) = lines(service, "there are no traces")
        assert "carrier-pigeon" in str(line["problem"])

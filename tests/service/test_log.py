"""The service's own log: JSON lines, each about a batch with its CorrelationID."""

from __future__ import annotations

import json

import grpc
import pytest

from tests.harness.service import Service
from tests.harness.wait import until


def test_one_search_for_an_id_finds_its_calls_and_its_end_and_no_secret(shared_service: Service) -> None:
    api = shared_service.api()
    name = api.submit("true")
    api.wait(name)
    list(api.follow(name))
    with pytest.raises(grpc.RpcError):
        list(api.follow(name, job_index=[7]))
    path = shared_service.folder / "logs" / "service.jsonl"

    def events() -> list[tuple[str, str, str]]:
        lines = [json.loads(line) for line in path.read_text().splitlines() if name in line]
        assert all(line["correlation_id"] == name and line["timestamp"] and line["level"] for line in lines)
        return [(line["event"], line.get("method", "").rpartition("/")[2], line.get("code", "")) for line in lines]

    expected = {
        ("rpc", "ExecuteJobs", "OK"),
        ("rpc", "WaitBatch", "OK"),
        ("rpc", "StreamLogs", "OK"),
        ("rpc", "StreamLogs", "INVALID_ARGUMENT"),
        ("batch finished", "", ""),
    }
    until(lambda: expected <= set(events()), f"every event, not only {events()}")
    text = path.read_text()
    assert api.token not in text
    assert all(shared_service.passwords[user] not in text for user in ("admin", "alice", "bob"))

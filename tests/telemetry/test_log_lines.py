"""What the lines of the service's log say, and what none of them ever says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobworker.v1 import query_pb2, schedule_pb2
from tests.harness.admin import Admin
from tests.harness.rest import rest
from tests.harness.service import Service, running
from tests.harness.wait import until

SECRETS = {name: f"{name}-{secrets.token_hex(12)}" for name in ("env", "stdin", "command", "argument", "password")}


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tells everything."""
    with running(tmp_path_factory.mktemp("talkative"), LOG_LEVEL="debug", LOGS__JOBS_PER_BATCH="3") as service:
        yield service


def lines(service: Service, about: str = "") -> list[dict[str, Any]]:
    text = (service.folder / "logs" / "service.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if about in line]


def events(service: Service, about: str) -> list[str]:
    return [line["event"] for line in lines(service, about)]


def test_every_line_within_a_call_says_whose_which_and_of_what_batch(talkative: Service) -> None:
    api = talkative.api()
    batch = api.submit("true")
    api.wait(batch)
    until(lambda: "batch finished" in events(talkative, batch) and events(talkative, batch).count("rpc") == 2)
    found = lines(talkative, batch)
    assert {"rpc", "batch accepted", "jobs ordered", "job ended", "batch finished"} == set(events(talkative, batch))
    for line in found:
        assert (line["correlation_id"], line["trace_id"]) == (batch, batch.replace("-", ""))
        assert line["user"] == "alice"
    # Told by the acceptor, which knows nothing of calls.
    (accepted,) = [line for line in found if line["event"] == "batch accepted"]
    assert accepted["rpc"] == "/jobworker.v1.JobScheduleService/ExecuteJobs"
    # Not in a call, even where one has set it going.
    for name in ("jobs ordered", "job ended", "batch finished"):
        assert not [line for line in found if line["event"] == name and "rpc" in line]


def test_a_call_with_a_trace_of_its_own_says_that_too(talkative: Service) -> None:
    api = talkative.api()
    batch = api.submit("true")
    trace = secrets.token_hex(16)
    told = [("traceparent", f"00-{trace}-{secrets.token_hex(8)}-01")]
    api.query.GetBatch(query_pb2.GetBatchRequest(correlation_id=batch), **api.call(metadata=told))
    api.query.ListBatches(query_pb2.ListBatchesRequest(), **api.call(metadata=told))
    until(lambda: len(lines(talkative, trace)) == 2, "both lines")
    get, listing = lines(talkative, trace)
    assert (get["trace_id"], get["caller_trace_id"], get["correlation_id"]) == (batch.replace("-", ""), trace, batch)
    assert (listing["trace_id"], listing["caller_trace_id"], listing["correlation_id"]) == (trace, trace, None)
    ours = rest(talkative)
    ours("GET", f"/v1/batches/{batch}", traceparent=told[0][1])
    until(lambda: len(lines(talkative, trace)) == 3, "over REST as well")
    assert lines(talkative, trace)[2]["rpc"] == "/jobworker.v1.JobQueryService/GetBatch"


def test_of_a_large_batch_the_first_jobs_and_failed_ones_are_told_at_info_and_all_at_debug(talkative: Service) -> None:
    api = talkative.api()
    batch = api.submit(*[f"exit $(({i} % 10 == 9))" for i in range(100)])
    api.wait(batch)
    until(lambda: "batch finished" in events(talkative, batch), "its end")
    ended = [line for line in lines(talkative, batch) if line["event"] == "job ended"]
    assert sorted(line["job_index"] for line in ended) == list(range(100))
    told = sorted(line["job_index"] for line in ended if line["level"] == "info")
    assert told[:3] == [0, 1, 2]
    assert len(told) == 6
    assert all(index % 10 == 9 for index in told[3:])
    (failed,) = [line for line in ended if line["job_index"] == 9]
    assert (failed["state"], failed["reason"], failed["exit_code"]) == ("FAILED", "EXITED", 1)


@pytest.mark.parametrize(("level", "told"), [
    ("debug", {"batch accepted", "jobs ordered", "job ended", "batch finished", "rpc"}),
    ("info", {"job ended", "batch finished", "rpc"}), ("warning", set()), ("error", set()),
])  # fmt: skip
def test_each_level_takes_effect_while_the_service_runs(talkative: Service, level: str, told: set[str]) -> None:
    api, admin = talkative.api(), Admin(talkative)
    admin.update({"log_level": level})
    batch = api.submit("true")
    api.wait(batch)
    admin.update({"log_level": "debug"})
    marker = api.submit("true")
    api.wait(marker)
    # In the order in which they are told: what is missing by then stays missing.
    until(lambda: {"batch finished", "rpc"} <= set(events(talkative, marker)), "the lines after those")
    found = set(events(talkative, batch))
    assert found == told


def test_no_secret_is_in_any_line_whatever_the_level(talkative: Service) -> None:
    service = talkative
    api = service.api()
    anonymous = service.api(login=False)
    with pytest.raises(grpc.RpcError):
        anonymous.login("alice", SECRETS["password"])
    anonymous.token = "token-" + SECRETS["password"]
    with pytest.raises(grpc.RpcError):
        anonymous.get("019312d4-5c00-7abc-8def-0123456789ab")
    job = schedule_pb2.JobRequest(
        command=f"cat; echo $TOKEN; : {SECRETS['command']}; exit 3",
        env={"TOKEN": SECRETS["env"]},
        stdin=SECRETS["stdin"].encode(),
    )
    missing = schedule_pb2.JobRequest(argv=["/no/such/program", SECRETS["argument"]], env={"TOKEN": SECRETS["env"]})
    bad = schedule_pb2.JobRequest(command="true", cwd="relative", env={"TOKEN": SECRETS["env"]})
    batch = api.submit(job, missing)
    api.wait(batch)
    assert SECRETS["env"] in api.log(batch).decode()
    with pytest.raises(grpc.RpcError):
        api.submit(bad)
    ours = rest(service)
    ours("POST", "/v1/auth/login", {"username": "alice", "password": SECRETS["password"]})
    ours("POST", "/v1/job/schedule", {"command": "true", "env": {"TOKEN": SECRETS["env"]}, "nonsense": 1})
    ours("GET", f"/v1/batches/{batch}")
    end = api.submit("true")
    api.wait(end)
    until(lambda: "batch finished" in events(service, end), "all is told")
    keys = [path.read_text() for path in service.pki.rglob("*.key")]
    secret = [*SECRETS.values(), api.token, ours.token, *service.passwords.values()]
    secret += [line for key in keys for line in key.splitlines() if len(line) > 30]
    for text in ((service.folder / "logs" / "service.jsonl").read_text(), service.output()):
        assert batch in text
        assert not [one for one in secret if one in text]


def test_a_server_that_is_started_again_goes_on_in_the_same_file(tmp_path: Path) -> None:
    with running(tmp_path / "service") as service:
        api = service.api()
        first = api.submit("true")
        api.wait(first)
        until(lambda: "batch finished" in events(service, first))
        service.kill_server()
        service.ready()
        second = api.submit("true")
        api.wait(second)
        until(lambda: "batch finished" in events(service, second))
        assert "batch finished" in events(service, first)

"""A returned CorrelationID is durable; a batch without one never ran, not even in part."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Api, Service
from tests.harness.wait import until


def uuid7(low: int) -> str:
    """A UUIDv7 of now."""
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | 0x2 << 62 | low
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def test_every_id_that_was_given_out_while_the_server_was_killed_again_and_again_is_there(
    service: Service, tmp_path: Path
) -> None:
    api = service.api()
    given: list[str] = []
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            with contextlib.suppress(grpc.RpcError):
                given.append(api.submit("true", "echo hello", timeout=5))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for round_ in range(4):
        target = len(given) + 10 + 7 * round_
        until(lambda target=target: len(given) >= target, "more ids")
        service.kill_server()
    stop.set()
    for thread in threads:
        thread.join()
    for correlation_id in given:
        assert api.wait(correlation_id).counts.succeeded == 2


def test_a_client_that_vanishes_in_the_middle_of_its_batch_leaves_nothing_behind(
    service: Service, scratch: Path
) -> None:
    api = service.api()
    marker = scratch / "ran"
    padding = "x" * 500  # a batch that is too large for the commit log is written while it comes
    sent = threading.Event()

    def jobs() -> Iterator[schedule_pb2.JobRequest]:
        for _ in range(500):
            yield schedule_pb2.JobRequest(command=f"touch {marker} # {padding}")
        sent.set()
        threading.Event().wait(60)

    call = api.schedule.ExecuteJobs.future(jobs(), **api.call())
    sent.wait(60)
    until(lambda: any((service.data / "active").iterdir()), "the batch is being written")
    call.cancel()
    for folder in ("active", "trash"):
        until(lambda folder=folder: not any((service.data / folder).iterdir()), f"nothing is left in {folder}")
    service.kill_server()
    assert api.wait(api.submit("true")).counts.succeeded == 1
    assert not marker.exists()


def test_a_server_killed_in_the_middle_of_a_batch_has_nothing_of_it_when_it_is_back(
    service: Service, scratch: Path
) -> None:
    api = service.api()
    marker = scratch / "ran"
    hold = threading.Event()

    def jobs() -> Iterator[schedule_pb2.JobRequest]:
        for _ in range(20_000):
            yield schedule_pb2.JobRequest(command=f"touch {marker}")
        hold.wait(60)

    call = api.schedule.ExecuteJobs.future(jobs(), **api.call(wait_for_ready=False))
    until(lambda: any(p.stat().st_size for p in (service.data / "active").glob("*/batch.jsonl")), "lines on disk")
    service.kill_server()
    assert call.exception(60) is not None
    hold.set()
    assert api.wait(api.submit("true")).counts.succeeded == 1
    assert not any((service.data / "active").iterdir())
    assert not marker.exists()


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_repeated_submission_answers_duplicate_and_runs_once(alice: Api, scratch: Path, jobs: int) -> None:
    ran = scratch / "ran"
    name = uuid7(jobs)
    requests = [schedule_pb2.JobRequest(command=f"echo x >> {ran}") for _ in range(jobs)]
    results = []
    for _ in range(3):
        answer = alice.schedule.ExecuteJobs(iter(requests), **alice.call(metadata=[("x-correlation-id", name)]))
        results.append(answer.result)
        assert answer.correlation_id == name
        alice.wait(name)
    assert results == ["ACCEPTED", "DUPLICATE", "DUPLICATE"]
    assert ran.read_text() == "x\n" * jobs


def test_a_batch_may_end_while_it_is_submitted_again(alice: Api, scratch: Path) -> None:
    name, go = uuid7(4), scratch / "go"
    requests = [schedule_pb2.JobRequest(command=f"until [ -e {go} ]; do sleep 0.01; done") for _ in range(2)]
    call = {"metadata": [("x-correlation-id", name)]}
    alice.schedule.ExecuteJobs(iter(requests), **alice.call(**call))

    def again() -> Iterator[schedule_pb2.JobRequest]:
        yield requests[0]
        go.touch()
        alice.wait(name)
        yield requests[1]

    assert alice.schedule.ExecuteJobs(again(), **alice.call(**call)).result == "DUPLICATE"


def test_the_same_id_with_another_content_is_refused(alice: Api) -> None:
    name = uuid7(77)
    alice.submit("true", metadata=[("x-correlation-id", name)])
    for other in ("false", "true"):
        options = None if other == "false" else job_pb2.BatchOptions(fail_fast=True)
        with pytest.raises(grpc.RpcError) as refused:
            alice.submit(other, batch=options, metadata=[("x-correlation-id", name)])
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS

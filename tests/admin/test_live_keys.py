"""Each live key takes effect on a running service."""

from __future__ import annotations

import grpc

from jobworker.v1 import job_pb2, query_pb2
from tests.harness.admin import Admin
from tests.harness.refusal import refused
from tests.harness.service import Api, Service
from tests.harness.wait import until


def test_more_room_starts_waiting_jobs_of_a_batch_that_runs_already(configured: Service, admin: Admin) -> None:
    admin.update({"jobs": {"running": 1}})
    api = configured.api()
    batch = api.submit(*["exec sleep 600"] * 6, batch=job_pb2.BatchOptions(parallelism=6))
    until(lambda: api.get(batch).counts.running == 1, "one runs")
    admin.update({"jobs": {"running": 4}})
    until(lambda: api.get(batch).counts.running == 4, "four run")
    admin.update({"jobs": {"running": 2}})
    api.cancel(batch, 0, 1)
    counts = api.get(batch).counts
    assert (counts.running, counts.queued) == (2, 2)
    api.cancel(batch)


def test_the_defaults_of_jobs_hold_for_what_starts_from_then_on(configured: Service, admin: Admin) -> None:
    api = configured.api()
    admin.update({"jobs": {"parallelism": 1}})
    before = api.submit("exec sleep 600", "exec sleep 600")
    assert api.get(before).parallelism == 1
    until(lambda: api.get(before).counts.running == 1, "one runs")
    admin.update({"jobs": {"parallelism": 3, "timeout_seconds": 0.2, "log_bytes": 1000, "grace_seconds": 0}})
    after = api.submit("exec sleep 600", "head -c 5000 /dev/zero", "trap '' TERM; while :; do sleep 0.05; done")
    assert api.get(after).parallelism == 3
    states = [job.end_reason for job in api.jobs(after)]
    assert states == [job_pb2.END_REASON_TIMEOUT, job_pb2.END_REASON_LOG_LIMIT, job_pb2.END_REASON_TIMEOUT]
    # The job that ran already keeps what it started with; the one behind it starts with the new timeout.
    assert api.get(before).counts.running == 1
    api.cancel(before, 0)
    assert [job.state for job in api.jobs(before)] == [job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_TIMED_OUT]


def test_limits_and_token_lifetime_hold_from_then_on(configured: Service, admin: Admin) -> None:
    api = configured.api()
    held = api.submit("exec sleep 600")
    admin.update({"limits": {"batch_jobs": 2, "user_unfinished_jobs": 3, "user_unfinished_batches": 2}})
    assert refused(lambda: api.submit(*["true"] * 3)).subjects == ["user:alice"]
    second = api.submit("exec sleep 600")
    assert "2 unfinished batches" in refused(lambda: api.submit("true")).message
    admin.update({"limits": {"free_disk_bytes": 1 << 60, "user_unfinished_batches": 9}})
    assert refused(lambda: api.submit("true")).subjects == ["service"]
    admin.update({}, mask=["*"])
    for batch in (held, second, api.submit(*["true"] * 9)):
        api.cancel(batch)
    admin.update({"auth": {"token_lifetime_seconds": 1}})
    api.login("alice", configured.passwords["alice"])
    until(lambda: expired(api), "the token has expired")
    assert admin.state() == "SERVING"  # with a token of before


def expired(api: Api) -> bool:
    try:
        api.query.ListBatches(query_pb2.ListBatchesRequest(), **api.call())
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)  # type: ignore[attr-defined]
    return False


def test_the_log_tells_as_much_as_it_is_told_to(configured: Service, admin: Admin) -> None:
    log = configured.folder / "logs" / "service.jsonl"
    api = configured.api()
    api.wait(api.submit("true"))
    until(lambda: "JobScheduleService/ExecuteJobs" in log.read_text(), "its line")
    admin.update({"log_level": "error"})
    quiet = api.submit("true")
    api.wait(quiet)
    admin.update({"log_level": "debug"})
    loud = api.submit("true")
    api.wait(loud)
    # In the order in which they were told: what is missing by then stays missing.
    until(lambda: f'"correlation_id": "{loud}"' in log.read_text(), "the line of a loud one")
    text = log.read_text()
    assert quiet not in text
    assert text.count('"event": "batch accepted"') == 1


def test_a_follower_that_takes_nothing_is_cut_after_the_time_that_holds_now(configured: Service, admin: Admin) -> None:
    api = configured.api()
    batch = api.submit(f"head -c {64 << 20} /dev/zero")
    api.wait(batch)
    admin.update({"grpc": {"stall_seconds": 0.5}})
    stream = api.follow(batch)
    next(stream)
    until(lambda: admin.status().followers == 0, "it is cut")
    found = refused(lambda: stream)
    assert (found.name, found.subjects) == ("RESOURCE_EXHAUSTED", ["follower"])
    assert "0.5 s" in found.message

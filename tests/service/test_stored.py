"""What batches take on the disk is known exactly, whatever dies meanwhile, and limited."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import admin_pb2, job_pb2, schedule_pb2
from tests.harness.admin import Admin, kill_server
from tests.harness.figures import scrape
from tests.harness.refusal import refused
from tests.harness.service import Api, Service, running
from tests.harness.stored import Figures, walked
from tests.harness.wait import until

ROUND = 100_000  # bytes of a log, beside which all else of a batch is little


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path / "service") as made:
        yield made


def told(admin: Admin) -> dict[str, Figures]:
    """What the service says that each user's batches take; and that the sum is that of all."""
    status = admin.status()
    users = {u.user: (u.stored_batches, u.stored_bytes, u.stored_files) for u in status.users}
    total = status.stored
    assert (total.batches, total.bytes, total.files) == tuple(map(sum, zip((0, 0, 0), *users.values(), strict=True)))
    return {} if total.counting else users


def until_exact(service: Service, admin: Admin) -> dict[str, Figures]:
    """Waits until every batch is stored, and what is told is so."""
    until(lambda: not any((service.data / "active").iterdir()), "all is stored")
    wanted = walked(service.data)
    with contextlib.suppress(AssertionError):
        until(lambda: told(admin) == wanted, seconds=20)
    assert told(admin) == wanted
    figures = scrape(service.metrics_port)
    shown = [figures.value(f"jobworker_store_{name}") for name in ("batches", "bytes", "files")]
    assert shown == [sum(column) for column in zip((0, 0, 0), *wanted.values(), strict=True)]
    return wanted


def print_round(api: Api, *more: str) -> str:
    """A finished batch, of a log that long."""
    batch = api.submit(f"head -c {ROUND} /dev/zero", *more)
    api.wait(batch)
    return batch


def names(service: Service) -> set[str]:
    """Of the finished batches."""
    return {folder.name for folder in (service.data / "batches").glob("*/*/*/*")}


def test_what_is_told_is_what_a_walk_finds_and_outlives_killed_servers(service: Service, scratch: Path) -> None:
    admin, alice, root = Admin(service), service.api(), service.api("admin")
    separate = schedule_pb2.JobRequest(command="echo out; echo err >&2", output=job_pb2.OUTPUT_MODE_SEPARATE)
    alice.wait(alice.submit("echo one", "exit 3", separate))
    root.wait(root.submit("head -c 12345 /dev/zero", batch=job_pb2.BatchOptions(name="x" * 50)))
    alice.wait(alice.submit("false", *["true"] * 5, batch=job_pb2.BatchOptions(fail_fast=True, parallelism=1)))
    alice.wait(alice.submit("/nowhere/at/all", schedule_pb2.JobRequest(argv=["/nowhere"])))
    alice.wait(alice.submit(*[f"echo {'x' * 100} {n}" for n in range(1100)]))  # in folders of a thousand logs
    assert len(until_exact(service, admin)) == 2
    go = scratch / "go"
    batch = alice.submit("echo first", f"until [ -e {go} ]; do sleep 0.05; done; head -c 1000 /dev/zero")
    until(lambda: alice.get(batch).counts.succeeded == 1, "the first has ended")
    cancelled = alice.submit("exec sleep 600", *["true"] * 3000, batch=job_pb2.BatchOptions(parallelism=1))
    kill_server(service, alice, admin)
    go.touch()
    alice.wait(batch)
    alice.cancel(cancelled)
    until_exact(service, admin)
    kill_server(service, admin)
    until_exact(service, admin)
    service.stop()
    service.start()
    until_exact(service, Admin(service))


def test_jobs_that_go_down_with_their_executor_are_counted_as_what_is_there(service: Service) -> None:
    admin, api = Admin(service), service.api()
    batch = api.submit(*["echo x; exec sleep 600"] * 3, "echo y", batch=job_pb2.BatchOptions(parallelism=2))
    until(lambda: api.get(batch).counts.running == 2, "two run")
    os.kill(service.child("executor"), signal.SIGKILL)
    until(lambda: api.get(batch).counts.lost == 2, "they are lost")
    api.cancel(batch)
    until_exact(service, admin)


def test_a_log_is_counted_while_it_grows(service: Service, scratch: Path) -> None:
    admin, api, go = Admin(service), service.api(), scratch / "go"
    admin.update({"limits": {"user_stored_bytes": 50 * ROUND}})
    batch = api.submit(f"head -c {60 * ROUND} /dev/zero; until [ -e {go} ]; do sleep 0.05; done")
    until(lambda: told(admin)["alice"][1] > 60 * ROUND, "it is seen")
    found = refused(lambda: api.submit("true"))
    assert (found.name, found.subjects, found.retry_seconds) == ("RESOURCE_EXHAUSTED", ["user:alice"], 30)
    assert f"{50 * ROUND} bytes stored" in found.message
    assert api.get(batch).counts.running == 1
    service.api("admin").submit("true")  # another's
    kill_server(service, api, admin)
    until(lambda: told(admin)["alice"][1] > 60 * ROUND, "it is seen again")
    go.touch()
    api.wait(batch)
    until_exact(service, admin)


def test_a_user_and_all_have_no_more_than_their_limits(service: Service) -> None:
    admin, alice, root = Admin(service), service.api(), service.api("admin")
    admin.update({"limits": {"user_stored_bytes": ROUND, "stored_bytes": 2 * ROUND}})
    print_round(alice)
    assert refused(lambda: alice.submit("true")).subjects == ["user:alice"]
    print_round(root)
    admin.update({"limits": {"user_stored_bytes": None}})
    found = refused(lambda: alice.submit("true"))
    assert (found.name, found.subjects, found.retry_seconds) == ("RESOURCE_EXHAUSTED", ["service"], 30)
    assert admin.status().stored.bytes_limit == 2 * ROUND
    assert scrape(service.metrics_port).value("jobworker_store_limit_bytes") == 2 * ROUND
    admin.update({"limits": {"stored_bytes": None}})
    alice.wait(alice.submit("true"))
    batches, _, files = until_exact(service, admin)["alice"]
    admin.update({"limits": {"user_stored_files": files + 4}})
    assert "files" in refused(lambda: alice.submit("true", "true")).message
    alice.wait(alice.submit("true"))
    assert until_exact(service, admin)["alice"][::2] == (batches + 1, files + 4)
    assert "files" in refused(lambda: alice.submit("true")).message


def test_an_upload_is_refused_once_it_is_too_large_and_leaves_nothing(service: Service) -> None:
    admin, api = Admin(service), service.api()
    before = told(admin)
    admin.update({"limits": {"user_stored_bytes": 4 << 20}})
    sent = []

    def jobs() -> Iterator[schedule_pb2.JobRequest]:
        for number in range(1000):
            sent.append(number)
            yield schedule_pb2.JobRequest(argv=["true", "x" * 100_000])

    found = refused(lambda: api.schedule.ExecuteJobs(jobs(), **api.call()))
    assert (found.name, found.subjects) == ("RESOURCE_EXHAUSTED", ["user:alice"])
    assert len(sent) < 1000  # it is not read to its end
    until(lambda: not any((service.data / "active").iterdir()), "nothing is left")
    assert told(admin) == before
    api.wait(api.submit("true"))


def test_the_oldest_finished_batches_go_and_no_unfinished_one(service: Service, scratch: Path) -> None:
    admin, api, root = Admin(service), service.api(), service.api("admin")
    # Begun first, and finished last.
    late = api.submit(f"until [ -e {scratch}/go ]; do sleep 0.05; done; head -c {ROUND} /dev/zero")
    unfinished = api.submit(f"head -c {ROUND} /dev/zero; exec sleep 600")
    first, foreign = print_round(api), print_round(root)
    second, third = print_round(api), print_round(api)
    (scratch / "go").touch()
    api.wait(late)
    until(lambda: names(service) == {first, foreign, second, third, late}, "they are stored")
    until(lambda: admin.status().stored.bytes > 5 * ROUND, "what the unfinished one printed is known")
    kept = round(4.5 * ROUND)
    plan = admin.plan(stored_bytes=kept)
    assert [removal.correlation_id for removal in plan.removals] == [first]
    assert plan.removals[0].reason == admin_pb2.RETENTION_REASON_STORED
    assert (plan.bytes, plan.more, plan.counting) == (plan.removals[0].bytes, False, False)
    admin.update({"retention": {"stored_bytes": kept}})
    until(lambda: first not in names(service), "the oldest one goes")
    print_round(api)
    until(lambda: foreign not in names(service), "and the next")
    assert {second, third, late} <= names(service)
    plan = admin.plan(user_stored_bytes=round(2.5 * ROUND))
    assert [removal.correlation_id for removal in plan.removals] == [second, third]
    assert {removal.reason for removal in plan.removals} == {admin_pb2.RETENTION_REASON_USER_STORED}
    admin.update({"retention": {"user_stored_bytes": 1}})
    until(lambda: not names(service), "all that is finished goes")
    assert api.get(unfinished).counts.running == 1
    figures = scrape(service.metrics_port)
    assert figures.value("jobworker_retention_removed_batches_total", reason="total") == 2
    assert figures.value("jobworker_retention_removed_batches_total", reason="user") == 4
    api.cancel(unfinished)


def test_what_a_dry_run_tells_is_what_is_then_removed(service: Service) -> None:
    admin, api = Admin(service), service.api()
    for _ in range(8):
        print_round(api)
    until_exact(service, admin)
    assert not admin.plan().removals
    assert admin.plan(stored_files=1).more is False
    limited = admin_pb2.PlanRetentionRequest(max_removals=3)
    limited.values.update({"retention": {"stored_files": 1}})
    short = admin.stub.PlanRetention(limited, **admin.api.call())
    assert (len(short.removals), short.more) == (3, True)
    plan = admin.plan(stored_bytes=round(3.5 * ROUND), finished_seconds=10_000)
    before = names(service)
    admin.update({"retention": {"stored_bytes": round(3.5 * ROUND)}})
    gone = {removal.correlation_id for removal in plan.removals}
    until(lambda: before - names(service) == gone, "they are removed")
    assert len(gone) == 5
    until_exact(service, admin)
    kill_server(service, admin)
    until_exact(service, admin)
    found = refused(lambda: admin.plan(nothing=1))
    assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["retention.nothing"])
    limited.values.Clear()
    limited.values.update({"jobs": {"running": 1}})
    assert refused(lambda: admin.stub.PlanRetention(limited, **admin.api.call())).fields == ["jobs.running"]


def test_retention_keeps_less_than_is_accepted(service: Service) -> None:
    admin = Admin(service)
    found = refused(lambda: admin.update({"limits": {"stored_bytes": 100}, "retention": {"stored_bytes": 100}}))
    assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["retention.stored_bytes"])


def test_with_retention_by_bytes_a_service_at_its_limit_goes_on(service: Service) -> None:
    admin, api = Admin(service), service.api()
    admin.update({"limits": {"stored_bytes": 6 * ROUND}, "retention": {"stored_bytes": 3 * ROUND}})
    batches = []

    def submitted() -> bool:
        try:
            batches.append(print_round(api))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined]
                raise
            return False
        return True

    for _ in range(12):
        until(submitted, "there is room again")
    until(lambda: admin.status().stored.bytes <= 3 * ROUND, "it is within the limit")
    until(lambda: names(service) == set(batches[-2:]), "the newest are left")
    until_exact(service, admin)


def test_a_store_of_which_the_log_tells_nothing_is_counted_once(service: Service) -> None:
    admin, api = Admin(service), service.api()
    for _ in range(20):
        api.wait(api.submit("echo x"))
    until_exact(service, admin)
    service.stop()
    (service.data / "recount").touch()
    folder = next((service.data / "batches").glob("*/*/*/*"))
    results = folder / "results.jsonl"
    results.write_bytes(re.sub(rb',"logs":\[2,1\]}\n$', b"}\n", results.read_bytes()))  # as a version before wrote it
    service.start()
    admin = Admin(service)
    until_exact(service, admin)
    until(lambda: not (service.data / "recount").exists(), "it need not be again")
    before = told(admin)
    service.stop()
    stray = service.data / "batches" / "alice" / "2026-01-01" / "0000" / folder.name
    stray.mkdir(parents=True)
    (stray / "file").write_bytes(b"x" * 1000)
    service.start()  # it is not looked at again
    assert told(Admin(service)) == before


def test_uploads_in_parallel_get_one_quota(service: Service) -> None:
    """Each alone would have room; together they have not."""
    admin, api = Admin(service), service.api()
    admin.update({"limits": {"user_stored_bytes": 5 << 20}})
    everyone, outcomes = threading.Barrier(4), []

    def upload() -> None:
        def jobs() -> Iterator[schedule_pb2.JobRequest]:
            for _ in range(30):
                yield schedule_pb2.JobRequest(argv=["true", "x" * 100_000])
            with contextlib.suppress(threading.BrokenBarrierError):
                everyone.wait(60)  # all of them are under way
            yield schedule_pb2.JobRequest(argv=["true"])

        try:
            outcomes.append(api.schedule.ExecuteJobs(jobs(), **api.call()).correlation_id)
        except grpc.RpcError as error:
            everyone.abort()
            outcomes.append(error.code().name)  # type: ignore[attr-defined]

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("RESOURCE_EXHAUSTED") >= 3
    until(lambda: told(admin).get("alice", (0, 0, 0))[1] <= 5 << 20, "no more than the quota")

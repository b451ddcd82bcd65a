"""A batch's trace, as a collector receives it from the real service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.admin import Admin
from tests.harness.otlp import Receiver, Span, receiver
from tests.harness.service import Service, running
from tests.harness.wait import until

SCRIPT = Path(__file__).with_name("traced_job.py")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Receiver]]:
    """A service, and where its spans go."""
    with receiver() as found, running(tmp_path_factory.mktemp("traced"), variables=found.environment) as service:
        yield service, found


def ids(spans: list[Span]) -> set[str]:
    return {span.id for span in spans}


def test_the_trace_of_a_batch_is_its_correlation_id_and_holds_its_life(traced: tuple[Service, Receiver]) -> None:
    service, receiver = traced
    api = service.api()
    batch = api.submit("true", "exit 3", batch=job_pb2.BatchOptions(name="nightly", parallelism=1))
    final = api.wait(batch)
    root = receiver.received.root(batch)
    assert root.trace == batch.replace("-", "")
    assert (root.parent, root.error) == ("", True)
    wanted = {
        "jobworker.correlation_id": batch, "user.name": "alice", "jobworker.batch.name": "nightly",
        "jobworker.batch.state": "failed", "jobworker.batch.jobs": 2, "jobworker.batch.succeeded": 1,
        "jobworker.batch.failed": 1,
    }  # fmt: skip
    assert wanted.items() <= root.attributes.items()
    assert root.resource["service.name"] == "jobworker"
    assert (root.began_at, root.ended_at) == (final.accepted_at.ToNanoseconds(), final.ended_at.ToNanoseconds())
    (accept,) = receiver.received.named(batch, "accept")
    assert accept.parent == root.id
    assert root.began_at == accept.began_at <= accept.ended_at <= root.ended_at
    queued, ran = receiver.received.named(batch, "queue"), receiver.received.named(batch, "run")
    for job, wait, run in zip(api.jobs(batch), queued, ran, strict=True):
        assert (wait.parent, run.parent) == (root.id, root.id)
        assert wait.attributes["jobworker.job.index"] == run.attributes["jobworker.job.index"] == job.index
        assert (wait.began_at, wait.ended_at) == (root.began_at, run.began_at)
        assert (run.began_at, run.ended_at) == (job.started_at.ToNanoseconds(), job.ended_at.ToNanoseconds())
        assert run.attributes["process.exit.code"] == job.exit_code
        assert run.attributes["jobworker.job.cpu_user_seconds"] == job.usage.user_time.ToMicroseconds() / 1e6
    assert [(run.error, run.attributes["jobworker.job.state"]) for run in ran] == [
        (False, "succeeded"),
        (True, "failed"),
    ]
    assert ran[1].message == "FAILED (exit code 3)"


def test_a_job_is_told_the_span_that_it_will_have(traced: tuple[Service, Receiver]) -> None:
    service, receiver = traced
    api = service.api()
    batch = api.submit("printf %s $TRACEPARENT", "printf %s $TRACEPARENT")
    api.wait(batch)
    receiver.received.root(batch)
    for index, run in enumerate(receiver.received.named(batch, "run")):
        assert api.log(batch, index).decode() == f"00-{run.trace}-{run.id}-01"


def test_each_kind_of_end_is_told(traced: tuple[Service, Receiver], scratch: Path) -> None:
    service, receiver = traced
    api = service.api()
    slow = schedule_pb2.JobRequest(command="sleep 60")
    slow.timeout.FromMilliseconds(100)
    batch = api.submit(
        slow,
        "kill -9 $$",
        schedule_pb2.JobRequest(argv=["/no/such/program"]),
        f"touch {scratch}/runs; sleep 60",
        "true",
        batch=job_pb2.BatchOptions(parallelism=4),
    )
    until((scratch / "runs").exists, "the fourth runs")
    api.cancel(batch, 3, 4)
    api.wait(batch)
    receiver.received.root(batch)
    runs = {span.attributes["jobworker.job.index"]: span for span in receiver.received.named(batch, "run")}
    waits = receiver.received.named(batch, "queue")
    told = {i: (s.attributes["jobworker.job.end_reason"], s.error) for i, s in runs.items()}
    assert told.items() >= {0: ("timeout", True), 1: ("signalled", True), 3: ("cancelled", False)}.items()
    assert runs[1].attributes["jobworker.job.signal"] == 9
    assert runs[0].attributes["error.type"] == "timeout"
    spawn = runs.get(2) or waits[2]
    assert (spawn.attributes["jobworker.job.end_reason"], spawn.error) == ("spawn_failed", True)
    fifth = runs.get(4) or waits[4]  # it may have run before the cancellation came
    assert fifth.attributes["jobworker.job.state"] in ("skipped", "succeeded", "cancelled")
    assert len(waits) == 5


def test_a_server_that_is_killed_in_the_middle_loses_nothing_of_the_trace(tmp_path: Path, scratch: Path) -> None:
    gate = scratch / "gate"
    with receiver() as found, running(tmp_path / "service", variables=found.environment) as service:
        api = service.api()
        batch = api.submit(
            "printf %s $TRACEPARENT",
            "exit 4",
            f"while [ ! -e {gate} ]; do sleep 0.01; done; printf %s $TRACEPARENT",
            "true",
            batch=job_pb2.BatchOptions(parallelism=3),
        )
        until(lambda: api.get(batch).counts.failed == 1 and api.get(batch).counts.succeeded >= 1, "two have ended")
        service.kill_server()
        service.ready()
        gate.touch()
        api.wait(batch)
        root = found.received.root(batch)
        assert len(found.received.named(batch, "batch")) == 1
        (accept,) = found.received.named(batch, "accept")
        assert root.began_at == accept.began_at <= accept.ended_at <= root.ended_at
        runs = found.received.named(batch, "run")
        assert [run.attributes["process.exit.code"] for run in runs] == [0, 4, 0, 0]
        assert {run.parent for run in runs} == {root.id}
        for index in (0, 2):
            assert api.log(batch, index).decode() == f"00-{root.trace}-{runs[index].id}-01"


def test_jobs_lost_with_their_executor_are_errors(tmp_path: Path) -> None:
    with receiver() as found, running(tmp_path / "service", variables=found.environment) as service:
        api = service.api()
        batch = api.submit("sleep 60")
        until(lambda: api.get(batch).counts.running, "it runs")
        os.kill(service.child("executor"), 9)
        api.wait(batch)
        found.received.root(batch)
        (run,) = found.received.named(batch, "run")
        assert run.error
        assert run.attributes["jobworker.job.state"] == "lost"
        assert "process.exit.code" not in run.attributes


def test_of_a_large_batch_the_first_jobs_and_failed_ones_have_spans_and_the_root_says_how_many_have_none(
    tmp_path: Path,
) -> None:
    settings = {"TRACES__JOBS_PER_BATCH": "5"}
    with receiver() as found, running(tmp_path / "service", variables=found.environment, **settings) as service:
        api = service.api()
        batch = api.submit(*[f"exit $(({i} % 10 == 9))" for i in range(100)])
        assert api.wait(batch).counts.failed == 10
        root = found.received.root(batch)
        runs = [span.attributes["jobworker.job.index"] for span in found.received.named(batch, "run")]
        assert runs[:5] == [0, 1, 2, 3, 4]
        assert len(runs) == 10
        assert all(index % 10 == 9 for index in runs[5:])
        assert root.attributes["jobworker.batch.jobs_without_spans"] == 90
        assert (root.attributes["jobworker.batch.failed"], root.attributes["jobworker.batch.succeeded"]) == (10, 90)
        Admin(service).update({"traces": {"jobs_per_batch": 0}})
        batch = api.submit("true")
        api.wait(batch)
        root = found.received.root(batch)
        assert root.attributes["jobworker.batch.jobs_without_spans"] == 1
        assert not found.received.named(batch, "run")


def test_the_ratio_may_be_changed_while_the_service_runs_and_jobs_are_told(tmp_path: Path) -> None:
    with receiver() as found, running(tmp_path / "service", variables=found.environment) as service:
        api, admin = service.api(), Admin(service)
        admin.update({"traces": {"sample_ratio": 0}})
        dropped = api.submit("printf %s $TRACEPARENT")
        api.wait(dropped)
        assert api.log(dropped).endswith(b"-00")
        admin.update({"traces": {"sample_ratio": 1}})
        kept = api.submit("printf %s $TRACEPARENT")
        api.wait(kept)
        assert api.log(kept).endswith(b"-01")
        found.received.root(kept)
        assert not [span for span in found.received.of(dropped) if span.name in ("batch", "queue", "run", "accept")]


def test_the_spans_of_a_script_that_uses_opentelemetry_are_children_of_its_jobs(
    traced: tuple[Service, Receiver],
) -> None:
    import sys  # noqa: PLC0415

    service, receiver = traced
    api = service.api()
    job = schedule_pb2.JobRequest(
        argv=[sys.executable, str(SCRIPT)], env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}"}
    )
    batch = api.submit(job)
    assert api.wait(batch).counts.succeeded == 1, api.log(batch)
    receiver.received.root(batch)
    (run,) = receiver.received.named(batch, "run")
    until(lambda: receiver.received.named(batch, "inner"), "the job's own spans")
    (outer,), (inner,) = receiver.received.named(batch, "outer"), receiver.received.named(batch, "inner")
    assert (outer.parent, inner.parent) == (run.id, outer.id)
    assert outer.resource["service.name"] == "a-job"
    assert run.began_at <= outer.began_at <= inner.ended_at <= outer.ended_at <= run.ended_at

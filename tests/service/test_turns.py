"""How many run at a time, and whose turn it is."""

from __future__ import annotations

from pathlib import Path

from jobworker.v1 import job_pb2
from tests.harness.service import Api, Service, running
from tests.harness.wait import until


def test_no_more_jobs_of_a_batch_run_at_a_time_than_it_asked_for(alice: Api, scratch: Path) -> None:
    at_work, over = scratch / "at-work", scratch / "over"
    at_work.mkdir()
    at_work.chmod(0o777)
    command = f'mkdir {at_work}/$$; n=$(ls {at_work} | wc -l); [ "$n" -le 3 ] || echo $n >> {over}; rmdir {at_work}/$$'
    final = alice.wait(alice.submit(*[command] * 400, batch=job_pb2.BatchOptions(parallelism=3)))
    assert final.counts.succeeded == 400
    assert not over.exists()


def test_with_one_at_a_time_jobs_run_in_their_order(alice: Api, scratch: Path) -> None:
    order = scratch / "order"
    commands = [f"echo {i} >> {order}" for i in range(200)]
    alice.wait(alice.submit(*commands, batch=job_pb2.BatchOptions(parallelism=1)))
    assert order.read_text().split() == [str(i) for i in range(200)]


def test_a_job_that_was_ordered_ahead_and_is_cancelled_before_its_turn_is_skipped(alice: Api, scratch: Path) -> None:
    ran = scratch / "ran"
    # Quick ones first, so that the rest is ordered ahead behind the one that stays.
    commands = [*["true"] * 40, "exec sleep 600", *[f"echo x >> {ran}"] * 30]
    batch = alice.submit(*commands, batch=job_pb2.BatchOptions(parallelism=1))
    until(lambda: alice.get(batch).counts.succeeded == 40 and alice.get(batch).counts.running == 1, "it runs")
    final = alice.cancel(batch)
    assert (final.counts.succeeded, final.counts.cancelled, final.counts.skipped) == (40, 1, 30)
    assert not ran.exists()


def test_jobs_that_were_ordered_ahead_are_queued_again_when_the_service_stops(service: Service, scratch: Path) -> None:
    api = service.api()
    ran = scratch / "ran"
    commands = [*["true"] * 40, "exec sleep 600", *[f"echo x >> {ran}"] * 30]
    batch = api.submit(*commands, batch=job_pb2.BatchOptions(parallelism=1))
    until(lambda: api.get(batch).counts.succeeded == 40 and api.get(batch).counts.running == 1, "it runs")
    assert service.stop() == 0
    assert not ran.exists()
    service.start()
    api = service.api()
    final = api.wait(batch)
    assert (final.counts.succeeded, final.counts.failed) == (70, 1)
    assert api.jobs(batch)[40].end_reason == job_pb2.END_REASON_INTERRUPTED
    assert ran.read_text() == "x\n" * 30


def test_jobs_that_were_ordered_ahead_survive_the_servers_death_and_run_once(service: Service, scratch: Path) -> None:
    api = service.api()
    ran, go = scratch / "ran", scratch / "go"
    commands = [*["true"] * 40, f"until [ -e {go} ]; do sleep 0.01; done", *[f"echo x >> {ran}"] * 30]
    batch = api.submit(*commands, batch=job_pb2.BatchOptions(parallelism=1))
    until(lambda: api.get(batch).counts.succeeded == 40 and api.get(batch).counts.running == 1, "it runs")
    service.kill_server()
    go.touch()
    assert api.wait(batch).counts.succeeded == 71
    assert ran.read_text() == "x\n" * 30


def test_batches_of_different_users_take_turns(tmp_path: Path, scratch: Path) -> None:
    order = scratch / "order"
    with running(tmp_path / "service", JOBS__RUNNING="1") as service:
        alice, bob = service.api("alice"), service.api("bob")
        go = scratch / "go"
        alice.submit(f"until [ -e {go} ]; do sleep 0.01; done")
        first = alice.submit(*[f"echo alice >> {order}"] * 20)
        second = bob.submit(*[f"echo bob >> {order}"] * 5)
        go.touch()
        alice.wait(first)
        bob.wait(second)
    # Bob came last and has five jobs: they run between Alice's first ones, not behind her twenty.
    assert order.read_text().split()[:10].count("bob") >= 4

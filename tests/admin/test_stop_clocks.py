"""The deadline of a stop, and clocks that are set meanwhile: it is as far away as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.server.clocks import Now
from jobworker.server.scheduling.deadline import Deadline
from tests.harness.admin import Admin, kill_server
from tests.harness.clockshift import ClockShift, shifted_service
from tests.harness.service import Api, Service
from tests.harness.wait import until

DAY = 86_400.0
SECOND_NS = 1_000_000_000


@pytest.fixture
def service(tmp_path: Path, clock: ClockShift) -> Iterator[Service]:
    """One whose clocks jump."""
    with shifted_service(tmp_path / "service", clock) as made:
        yield made


def running_job(service: Service) -> str:
    """A batch of one job, which runs."""
    api = service.api()
    name = api.submit("exec sleep 600")
    until(lambda: api.get(name).counts.running == 1, "it runs")
    return name


def logged_in(service: Service) -> tuple[Admin, Api]:
    """Anew: tokens go by the clock of the day."""
    return Admin(service), service.api()


def test_a_clock_that_is_set_back_makes_no_deadline_later(service: Service, clock: ClockShift) -> None:
    name = running_job(service)
    admin, alice = logged_in(service)
    told = admin.stop(deadline_seconds=2).drain_deadline.ToNanoseconds()
    clock.jump(-DAY)
    admin, alice = logged_in(service)
    shown = admin.status().drain_deadline.ToNanoseconds()
    assert abs(told - shown - DAY * SECOND_NS) < 2 * SECOND_NS
    assert alice.wait(name, seconds=50).counts.cancelled == 1


def test_a_clock_that_is_set_forward_makes_no_deadline_earlier(service: Service, clock: ClockShift) -> None:
    name = running_job(service)
    admin, alice = logged_in(service)
    told = admin.stop(deadline_seconds=600).drain_deadline.ToNanoseconds()
    clock.jump(DAY)
    admin, alice = logged_in(service)
    # Told again, the deadline is looked at again.
    again = admin.stop(cancel_queued=True).drain_deadline.ToNanoseconds()
    assert abs(again - told - DAY * SECOND_NS) < 2 * SECOND_NS
    assert alice.get(name).counts.running == 1
    alice.cancel(name)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_server_that_starts_after_the_clock_was_set_keeps_what_was_left(
    service: Service, clock: ClockShift, days: int
) -> None:
    name = running_job(service)
    admin, alice = logged_in(service)
    told = admin.stop(deadline_seconds=600).drain_deadline.ToNanoseconds()
    clock.jump(days * DAY)
    admin, alice = logged_in(service)
    kill_server(service, admin, alice)
    shown = admin.status().drain_deadline.ToNanoseconds()
    assert abs(shown - told - days * DAY * SECOND_NS) < 2 * SECOND_NS
    assert alice.get(name).counts.running == 1
    alice.cancel(name)


def test_what_a_server_of_before_has_written_is_understood(service: Service) -> None:
    name = running_job(service)
    admin, alice = logged_in(service)
    deadline_ns = time.time_ns() + 600 * SECOND_NS
    (service.data / "stop.json").write_text(json.dumps({"deadline_ns": deadline_ns, "cancel_queued": False}) + "\n")
    kill_server(service, admin, alice)
    assert admin.state() == "DRAINING"
    assert admin.status().drain_deadline.ToNanoseconds() == deadline_ns
    assert alice.get(name).counts.running == 1
    alice.cancel(name)


@pytest.mark.parametrize(
    ("went_by", "jump", "left"),
    [(60, 0, 540), (60, -86_400, 600), (60, 86_400, -85_860), (60, 300, 240), (60, -30, 570)],
)
def test_after_a_start_of_the_machine_the_clock_of_the_day_tells_and_never_more_than_was_left(
    went_by: int, jump: int, left: int
) -> None:
    written = Now(wall_ns=1_800_000_000 * SECOND_NS, boottime_ns=5_000 * SECOND_NS, boot="one")
    record = json.loads(json.dumps(Deadline.after(600, written).record(written)))
    now = Now(wall_ns=written.wall_ns + (went_by + jump) * SECOND_NS, boottime_ns=10 * SECOND_NS, boot="two")
    read = Deadline.read(record, now)
    assert read is not None
    assert read.left_ns(now) == left * SECOND_NS

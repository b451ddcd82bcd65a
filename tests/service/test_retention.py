"""Finished batches are removed when they were kept long enough, and not before."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.server.ids import CorrelationId
from jobworker.server.store.layout import Layout
from jobworker.server.store.plan import candidates
from tests.harness.admin import Admin
from tests.harness.clockshift import ClockShift, shifted_service
from tests.harness.service import Api, Service, running
from tests.harness.wait import until

HOUR = 3600.0
DAY = 24 * HOUR


def gone(api: Api, name: str) -> bool:
    try:
        api.get(name)
    except grpc.RpcError as e:
        return e.code() is grpc.StatusCode.NOT_FOUND
    return False


def put(layout: Layout, *, age: float, named: float | None = None) -> Path:
    """A batch's folder in the store, of results that old; `named`: after another time."""
    now = time.time()
    made = CorrelationId.make(round((now - (age if named is None else named)) * 1000))
    folder = Path(layout.finished("alice", made))
    folder.mkdir(parents=True)
    (folder / "results.jsonl").touch()
    os.utime(folder / "results.jsonl", (now - age, now - age))
    return folder


def test_a_finished_batch_is_removed_and_one_that_runs_is_not(tmp_path: Path) -> None:
    with running(tmp_path / "service", RETENTION__FINISHED_SECONDS="1") as service:
        api = service.api()
        finished, unfinished = api.submit("echo x"), api.submit("exec sleep 600")
        api.wait(finished)
        assert api.log(finished) == b"x\n"
        until(lambda: gone(api, finished), "it is removed")
        until(lambda: not any((service.data / "batches" / "alice").iterdir()), "the empty folders are removed")
        assert api.get(unfinished).counts.running == 1
        api.cancel(unfinished)


def test_days_that_are_too_young_are_not_looked_at_and_those_to_come_are(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.prepare()
    old, young, to_come = (put(layout, age=0, named=named) for named in (10 * DAY, 0.0, -70 * 365 * DAY))
    now = time.time()
    found = {Path(folder) for _, folder, _ in candidates(layout, before=now - 5 * DAY, now=now)}
    assert found == {old, to_come}
    assert young.exists()


@pytest.fixture
def shifted(tmp_path: Path, clock: ClockShift) -> Iterator[Service]:
    """A service whose clocks jump."""
    with shifted_service(tmp_path / "service", clock, RETENTION__FINISHED_SECONDS="900") as made:
        yield made


class Sweeps:
    """Has a service sweep, by a change of its configuration that means nothing."""

    _fractions = itertools.count(1)

    def __init__(self, service: Service) -> None:
        self._admin = Admin(service)

    def until(self, folder: Path) -> None:
        """Until one has removed a folder, and so has looked at everything."""
        self._next()
        until(lambda: not folder.exists(), "a sweep")

    def _next(self) -> None:
        self._admin.update({"retention": {"finished_seconds": 900 + next(self._fractions) / 1000}})


@pytest.mark.parametrize("jumps", [[HOUR], [-HOUR, 2 * HOUR], [HOUR, -HOUR, HOUR]])
def test_no_fresh_batch_is_removed_for_a_clock_that_is_set(
    shifted: Service, clock: ClockShift, jumps: list[float]
) -> None:
    api = shifted.api()
    fresh = api.submit("echo x")
    api.wait(fresh)
    for jump in jumps:
        clock.jump(jump)
        Sweeps(shifted).until(put(Layout(shifted.data), age=30 * DAY))
        assert not gone(shifted.api(), fresh)
    clock.pass_time(905)
    (folder,) = (shifted.data / "batches/alice").glob("*/*/*")
    Sweeps(shifted).until(folder)
    assert gone(shifted.api(), fresh)


def test_a_clock_that_is_set_back_keeps_no_batch_longer(shifted: Service, clock: ClockShift) -> None:
    api = shifted.api()
    fresh = api.submit("echo x")
    api.wait(fresh)
    (folder,) = (shifted.data / "batches/alice").glob("*/*/*")
    clock.jump(-2 * HOUR)
    clock.pass_time(905)
    Sweeps(shifted).until(folder)
    assert gone(shifted.api(), fresh)


def test_a_stop_does_not_wait_until_a_large_batch_is_removed(tmp_path: Path) -> None:
    service = Service(tmp_path / "service", RETENTION__FINISHED_SECONDS="900")
    service.make_pki()
    layout = Layout(service.data)
    os.close(layout.prepare())
    folder = put(layout, age=DAY)
    for shard in range(200):
        (folder / f"{shard:04d}").mkdir()
        for name in range(200):
            (folder / f"{shard:04d}" / f"{name}.log").touch()
    service.start()
    until(lambda: not folder.exists(), "its removal has begun")
    service.stop()
    left = sum(len(names) for _, _, names in os.walk(service.data / "trash"))
    assert left > 0
    service.start()
    until(lambda: not os.listdir(service.data / "trash"), "the next start removes the rest")
    service.stop()

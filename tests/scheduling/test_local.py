"""The server's end of the socket to the executor, with a test at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobworker.executor.protocol import VERSION, Connection, Message
from jobworker.server.model import JobEnd, JobSpec
from jobworker.server.scheduling.local import LocalWorker
from jobworker.server.scheduling.startflags import StartFlagFiles
from jobworker.server.scheduling.worker import ExecutorSnapshot, Order
from jobworker.server.store.uids import Uids
from tests.rpc.conftest import Lines


class Told:
    """A Listener."""

    def __init__(self) -> None:
        self.snapshots: list[ExecutorSnapshot] = []

    def attached(self, snapshot: ExecutorSnapshot) -> None:
        self.snapshots.append(snapshot)

    def started(self, jobs: list[tuple[str, int]]) -> None:
        """Of no interest here."""

    def ended(self, jobs: list[tuple[str, JobEnd]]) -> None:
        """Of no interest here."""


class Peer:
    """What the executor of an epoch says and hears."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.memory = -1
        self.theirs, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection = Connection(self._ours)

    async def hear(self, kind: str) -> tuple[Message, list[Message]]:
        """The next message of a kind, and those before it."""
        before: list[Message] = []
        async with asyncio.timeout(30):
            while True:
                received = self._connection.receive()
                if received is None:
                    await asyncio.sleep(0.001)
                    continue
                message, fds = received
                if message["m"] == "flags":
                    self.memory = fds.pop()
                for fd in fds:
                    os.close(fd)
                if message["m"] == kind:
                    return message, before
                before.append(message)

    async def attach(self, *, features: tuple[str, ...] = ("work", "flags")) -> None:
        """Answers, with a snapshot of nothing."""
        question, _ = await self.hear("attach")
        hello: dict[str, Any] = {"m": "hello", "v": VERSION, "epoch": self.epoch, "session": question["session"]}
        about = {"isolation": "none", "isolation_detail": "", "tree": "", "stopping": False}
        assert self._connection.send({**hello, **about, "features": list(features)})
        assert self._connection.send({"m": "snapshot", "waiting": [], "running": [], "ended": [], "last": True})

    def close(self) -> None:
        self._ours.close()
        if self.memory >= 0:
            os.close(self.memory)


def order(index: int, *, argument: str = "") -> Order:
    return Order(
        id=f"batch/{index}",
        index=index,
        slots=1,
        spec=JobSpec(command=f"true {argument}"),
        env={},
        timeout_seconds=None,
        grace_seconds=1,
        linger_seconds=1,
        log_bytes=None,
        logs=[os.open(os.devnull, os.O_WRONLY)],
        stdin=None,
    )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def flags(tmp_path: Path) -> StartFlagFiles:
    return StartFlagFiles(str(tmp_path), folder=str(tmp_path))


@pytest.fixture
async def worker(flags: StartFlagFiles) -> LocalWorker:
    return LocalWorker(listener=Told(), flags=flags, uids=Uids("unused"), log=Lines())


def snapshots(worker: LocalWorker) -> list[ExecutorSnapshot]:
    told = worker._listener
    assert isinstance(told, Told)
    return told.snapshots


async def connected(worker: LocalWorker, epoch: str, **options: Any) -> Peer:
    """An executor that is attached, and no orders yet."""
    peer = Peer(epoch)
    known = len(snapshots(worker))
    worker.connect(peer.theirs)
    await peer.attach(**options)
    await until(lambda: len(snapshots(worker)) > known)
    return peer


async def test_a_new_executor_is_attached_when_the_one_before_died_with_a_full_socket(worker: LocalWorker) -> None:
    first = await connected(worker, "e1")
    count = 0
    while not worker._waiting:
        worker.start([order(count, argument="x" * 20_000)])
        count += 1
        assert count < 1000
    first.close()
    await until(worker.gone.is_set)
    second = await connected(worker, "e2")
    assert worker.epoch == "e2"
    # Of all that was on its way to the first one it is known that nothing started.
    assert snapshots(worker)[-1].never_started == {f"batch/{index}": "e1" for index in range(count)}
    second.close()
    worker.close()


async def test_what_an_executor_had_begun_when_it_died_is_told_from_what_it_had_not(worker: LocalWorker) -> None:
    first = await connected(worker, "e1")
    worker.start([order(index) for index in range(4)])
    message, _ = await first.hear("start")
    flags = {one["id"]: one["flag"] for one in message["orders"]}
    assert len(set(flags.values())) == 4
    for name in ("batch/1", "batch/2"):
        os.pwrite(first.memory, b"\1", flags[name])
    worker.acknowledge(["batch/1", "batch/3"])
    # The next orders have the flags of those that are over, and these are not set.
    worker.start([order(4), order(5), order(6)])
    message, _ = await first.hear("start")
    again = {one["id"]: one["flag"] for one in message["orders"]}
    assert {flags["batch/1"], flags["batch/3"]} < set(again.values())
    os.pwrite(first.memory, b"\1", again["batch/5"])
    first.close()
    await until(worker.gone.is_set)
    second = await connected(worker, "e2")
    assert snapshots(worker)[-1].never_started == dict.fromkeys(("batch/0", "batch/4", "batch/6"), "e1")
    # It is told again until it is recorded.
    worker.acknowledge(["batch/4"], at_once=True)
    worker.tell_again()
    await second.attach()
    await until(lambda: len(snapshots(worker)) == 3)
    assert snapshots(worker)[-1].never_started == dict.fromkeys(("batch/0", "batch/6"), "e1")
    second.close()
    worker.close()


async def test_of_an_executor_that_is_not_quite_dead_nothing_is_known(
    worker: LocalWorker, flags: StartFlagFiles
) -> None:
    first = await connected(worker, "e1")
    worker.start([order(0)])
    await first.hear("start")
    held, first.memory = first.memory, -1  # by a thread of it that is still on its way out
    first.close()
    await until(worker.gone.is_set)
    second = await connected(worker, "e2")
    assert snapshots(worker)[-1].never_started == {}
    os.close(held)
    assert flags.take_others("e2") == {}  # nor later
    second.close()
    worker.close()


async def test_a_server_that_comes_when_both_have_died_knows_what_had_not_begun(flags: StartFlagFiles) -> None:
    before = LocalWorker(listener=Told(), flags=flags, uids=Uids("unused"), log=Lines())
    first = await connected(before, "e1")
    before.start([order(index) for index in range(4)])
    message, _ = await first.hear("start")
    at = {one["id"]: one["flag"] for one in message["orders"]}
    os.pwrite(first.memory, b"\1", at["batch/2"])
    before.acknowledge(["batch/3"])
    first.close()  # and of the server before nothing is heard any more
    after = LocalWorker(listener=Told(), flags=flags, uids=Uids("unused"), log=Lines())
    second = await connected(after, "e2")
    assert snapshots(after)[-1].never_started == dict.fromkeys(("batch/0", "batch/1"), "e1")
    for thing in (second, before, after):
        thing.close()


async def test_a_server_that_takes_over_goes_on_with_the_flags_of_the_executor_that_lives(
    flags: StartFlagFiles,
) -> None:
    before = LocalWorker(listener=Told(), flags=flags, uids=Uids("unused"), log=Lines())
    first = await connected(before, "e1")
    before.start([order(0), order(1)])
    message, _ = await first.hear("start")
    os.pwrite(first.memory, b"\1", message["orders"][1]["flag"])
    os.close(first.memory)
    first.memory = -1
    after = LocalWorker(listener=Told(), flags=flags, uids=Uids("unused"), log=Lines())
    again = await connected(after, "e1")
    after.start([order(2)])
    sent, _ = await again.hear("start")
    assert sent["orders"][0]["flag"] not in {one["flag"] for one in message["orders"]}
    again.close()
    await until(after.gone.is_set)
    second = await connected(after, "e2")
    assert snapshots(after)[-1].never_started == dict.fromkeys(("batch/0", "batch/2"), "e1")
    for thing in (first, second, before, after):
        thing.close()


async def test_an_order_that_was_given_twice_is_not_started_if_neither_is(
    worker: LocalWorker, flags: StartFlagFiles
) -> None:
    first = await connected(worker, "e1")
    worker.start([order(0), order(1)])
    worker.start([order(0), order(1)])
    await first.hear("start")
    message, _ = await first.hear("start")
    os.pwrite(first.memory, b"\1", message["orders"][1]["flag"])
    first.close()
    await until(worker.gone.is_set)
    assert flags.take_others("e2") == {"batch/0": "e1"}
    worker.close()


def test_files_of_other_users_are_not_believed(tmp_path: Path) -> None:
    flags = StartFlagFiles(str(tmp_path), folder=str(tmp_path))
    flags.of("e1").close()
    (path,) = tmp_path.iterdir()
    path.chmod(0o666)
    with pytest.raises(PermissionError):
        flags.of("e1")
    assert flags.take_others("e2") == {}
    assert path.exists()


async def test_nothing_is_left_of_an_executor_that_ended_in_order(worker: LocalWorker, tmp_path: Path) -> None:
    first = await connected(worker, "e1")
    worker.start([order(0)])
    await first.hear("start")
    assert len(list(tmp_path.iterdir())) == 1
    worker.acknowledge(["batch/0"])
    worker.stopping.set()
    first.close()
    await until(worker.gone.is_set)
    assert list(tmp_path.iterdir()) == []
    worker.close()


async def test_of_an_executor_of_the_release_before_nothing_is_known(worker: LocalWorker) -> None:
    first = await connected(worker, "e1", features=("work",))
    worker.start([order(0)])
    message, before = await first.hear("start")
    assert "flag" not in message["orders"][0]
    assert "flags" not in {one["m"] for one in before}
    first.close()
    await until(worker.gone.is_set)
    second = await connected(worker, "e2")
    assert snapshots(worker)[-1].never_started == {}
    second.close()
    worker.close()


async def test_an_executor_forgets_that_a_job_did_not_start_before_it_is_ordered_again(worker: LocalWorker) -> None:
    peer = await connected(worker, "e1")
    worker.acknowledge(["batch/0"], at_once=True)
    worker.start([order(0)])
    _, before = await peer.hear("start")
    assert {"m": "ack", "ids": ["batch/0"]} in before
    peer.close()
    worker.close()

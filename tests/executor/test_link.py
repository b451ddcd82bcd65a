"""What the kernel refuses for a while ends neither the executor, nor its link to the server, nor any job."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobworker.executor.protocol import FEATURES, Connection, Message
from tests.harness.executor import Executor, alive, wait_until
from tests.harness.failcalls import FailCalls


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.EIO])
def test_a_message_that_cannot_be_received_now_is_received_later(
    failing: Executor, calls: FailCalls, error: int
) -> None:
    (running,) = failing.give(failing.order("exec sleep 1000"))
    failing.pid(running)
    calls.fail("recvmsg", error)
    (name,) = failing.give(failing.order("echo ran"))
    wait_until(lambda: calls.failed("recvmsg") > 1, "another try")
    calls.mend("recvmsg")
    assert failing.end(name)["code"] == 0
    assert failing.log(name) == b"ran\n"
    assert running not in failing.ends


@pytest.mark.parametrize("call", ["send", "sendmsg"])
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOBUFS, errno.EIO])
def test_a_message_that_cannot_be_sent_now_is_sent_later(
    failing: Executor, calls: FailCalls, call: str, error: int
) -> None:
    calls.fail(call, error)
    (name,) = failing.give(failing.order("true", ""))
    wait_until(lambda: call == "sendmsg" or calls.failed(call) > 1, "some tries")
    calls.mend(call)
    assert failing.end(name)["code"] == 0


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_large_message_waits_for_its_descriptor(failing: Executor, calls: FailCalls, error: int) -> None:
    failing.acknowledges = False
    names = [name for _ in range(3) for name in failing.give(*(failing.order("true", "") for _ in range(150)))]
    failing.until(lambda: len(failing.ends) == len(names), "all ends")
    calls.fail("memfd_create", error)
    failing.send({"m": "attach", "v": 1, "session": "large", "features": []})
    wait_until(lambda: calls.failed("memfd_create") > 2, "some tries")
    calls.mend("memfd_create")
    failing.until(lambda: failing.said[-1]["m"] == "snapshot" and bool(failing.said[-1]["last"]), "the snapshot")
    assert {end["id"] for end in failing.said[-1]["ended"]} == set(names)


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
def test_a_job_that_cannot_be_watched_now_is_watched_later(failing: Executor, calls: FailCalls, error: int) -> None:
    calls.fail("epoll_ctl", error)
    names = failing.give(
        failing.order("echo out; echo err >&2", separate=True),
        failing.order("head -c 3000000 /dev/zero"),
        failing.order("exec sleep 1000"),
    )
    wait_until(lambda: calls.failed("epoll_ctl") > 6, "some tries")
    calls.mend("epoll_ctl")
    first, large, endless = names
    assert failing.end(first)["logs"] == [4, 4]
    assert failing.end(large)["logs"] == [3_000_000]
    failing.stop(endless)
    assert failing.end(endless)["reason"] == "cancelled"


def test_a_pipe_that_cannot_be_watched_while_its_job_ends_loses_nothing(failing: Executor, calls: FailCalls) -> None:
    (name,) = failing.give(failing.order("read x; echo last", stdin=True, linger=0.1), stdin=[b"x\n"])
    failing.end(name)
    command = "trap 'echo last; exit 7' TERM; echo first; while :; do :; done"
    (name,) = failing.give(failing.order(command))
    failing.pid(name)
    wait_until(lambda: failing.log(name) == b"first\n", "its first words")
    calls.fail("epoll_ctl", errno.ENOMEM)
    failing.stop(name)
    failing.until(lambda: name in failing.ends, "its end")
    assert failing.log(name) == b"first\nlast\n"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_job_that_runs_already_is_started_once_when_there_is_no_descriptor_to_watch_it(
    failing: Executor, calls: FailCalls, scratch: Path, error: int
) -> None:
    calls.fail("pidfd_open", error)
    (name,) = failing.give(failing.order(f"echo ran >> {scratch}/ran; exit 3"))
    wait_until(lambda: calls.failed("pidfd_open") > 2, "some tries")
    calls.mend("pidfd_open")
    assert failing.end(name)["code"] == 3
    assert (scratch / "ran").read_text() == "ran\n"


def test_no_look_at_processes_ends_the_executor(failing: Executor, calls: FailCalls) -> None:
    calls.fail("opendir", errno.EMFILE)
    calls.fail("posix_spawn", errno.EAGAIN, 3)
    # An orphan that cannot be looked at belongs to whatever runs.
    orphan = failing.run("setsid sh -c 'setsid sleep 1000 &'; exit 5", linger=0.1, grace=0.1)
    assert orphan["code"] == 5
    calls.mend("opendir")
    assert failing.run("exit 3")["code"] == 3


def test_an_executor_without_a_descriptor_to_connect_with_connects_later(
    pyz: Path, tmp_path: Path, calls: FailCalls
) -> None:
    path = tmp_path / "socket"
    command = [sys.executable, "-I", "-S", str(pyz), "--connect", str(path), "--allow-root-jobs"]
    stderr = (tmp_path / "stderr").open("wb")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, stderr:
        listener.bind(str(path))
        listener.listen(4)
        listener.settimeout(30)
        process = subprocess.Popen(command, env={**os.environ, **calls.env}, stderr=stderr)
        log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        try:
            first = _attached(listener)
            order = {
                "id": "b/0", "argv": ["sleep", "1000"], "env": {}, "cwd": "", "stdin": False, "logs": 1,
                "slots": 9, "timeout": None, "grace": 1, "linger": 1, "log_bytes": None, "limits": {},
            }  # fmt: skip
            first.connection.send({"m": "start", "epoch": first.epoch, "orders": [order]}, [log])
            _until(first, "started")
            calls.fail("socket", errno.EMFILE)
            calls.fail("epoll_ctl", errno.ENOMEM, 3)
            first.sock.close()
            wait_until(lambda: calls.failed("socket") > 2, "some tries")
            assert alive(process.pid)
            calls.mend("socket")
            second = _attached(listener)
            assert second.epoch == first.epoch
            assert [job["id"] for job in second.running] == ["b/0"]
            second.sock.close()
        finally:
            os.close(log)
            process.terminate()
            process.wait(30)


class _Server:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = Connection(sock)
        self.said: list[Message] = []

    @property
    def epoch(self) -> str:
        return str(self.said[0]["epoch"])

    @property
    def running(self) -> list[Message]:
        return [job for message in self.said if message["m"] == "snapshot" for job in message["running"]]


def _attached(listener: socket.socket) -> _Server:
    server = _Server(listener.accept()[0])
    server.connection.send({"m": "attach", "v": 1, "session": "s", "features": list(FEATURES)})
    _until(server, "snapshot")
    return server


def _until(server: _Server, kind: str) -> None:
    def heard() -> bool:
        while (received := server.connection.receive()) is not None:
            server.said.append(received[0])
        return any(message["m"] == kind for message in server.said)

    wait_until(heard, kind)

"""Servers come and go; the executor keeps what they must know."""

from __future__ import annotations

import array
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.executor.protocol import Connection, Message, ProtocolError, encode
from tests.harness.executor import Executor, wait_until


def test_an_end_is_kept_until_it_is_acknowledged(plain: Executor) -> None:
    plain.acknowledges = False
    end = plain.run("echo x; exit 9")
    (running,) = plain.give(plain.order("exec sleep 1000"))
    pid = plain.pid(running)
    for session in ("second", "third"):
        snapshot = plain.attach(session)
        assert snapshot["ended"] == [end]
        assert [(job["id"], job["pid"]) for job in snapshot["running"]] == [(running, pid)]
    plain.send({"m": "ack", "ids": [end["id"], "unknown/1"]})
    assert plain.attach("fourth")["ended"] == []
    plain.stop(running)
    plain.until(lambda: running in plain.ends)


def test_a_large_snapshot_comes_in_parts(plain: Executor) -> None:
    plain.acknowledges = False
    names = [name for _ in range(6) for name in plain.give(*(plain.order("true", "") for _ in range(200)))]
    plain.until(lambda: len(plain.ends) == len(names), "all ends")
    assert [end["id"] for end in plain.attach("again")["ended"]] == list(plain.ends)


def test_orders_sent_before_a_server_died_are_in_the_snapshot_of_the_next(plain: Executor) -> None:
    plain.acknowledges = False
    plain.process.send_signal(signal.SIGSTOP)
    os.kill(plain.inner_pid, signal.SIGSTOP)
    names = plain.give(*(plain.order("exec sleep 1000") for _ in range(30)))
    plain.send({"m": "attach", "v": 1, "session": "next", "features": []})
    os.kill(plain.inner_pid, signal.SIGCONT)
    plain.process.send_signal(signal.SIGCONT)
    plain.until(lambda: any(m.get("session") == "next" for m in plain.said), "the next hello")
    plain.until(lambda: any(m["m"] == "snapshot" and m["running"] for m in plain.said), "the snapshot")
    running = [job["id"] for m in plain.said if m["m"] == "snapshot" for job in m["running"]]
    assert running == names
    plain.stop(*names)
    plain.until(lambda: len(plain.ends) == 30)


def test_nothing_is_done_for_a_server_that_did_not_attach(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path) as executor:
        hello = executor.receive()
        assert (hello["m"], hello["session"], hello["v"]) == ("hello", None, 1)
        executor.hello = hello
        (name,) = executor.give(executor.order("echo ran"))
        executor.attach()
        executor.run("true", "")
        assert name not in executor.ends
        assert executor.log(name) == b""


def test_orders_for_another_epoch_are_dropped_and_their_descriptors_closed(plain: Executor) -> None:
    before = len(os.listdir(f"/proc/{plain.inner_pid}/fd"))
    (name,) = plain.give(plain.order("echo ran"), epoch="another")
    plain.run("true", "")
    assert name not in plain.ends
    assert len(os.listdir(f"/proc/{plain.inner_pid}/fd")) == before


def test_a_job_that_is_ordered_twice_runs_once(plain: Executor) -> None:
    plain.acknowledges = False
    order = plain.order("echo ran")
    plain.give(order)
    plain.end(order["id"])
    path = plain.log_path(order["id"])
    path.rename(path.with_suffix(".first"))
    plain.give(order)
    plain.until(lambda: bool(plain.errors), "an error")
    assert plain.log(order["id"]) == b""


def test_large_orders_travel_in_a_memfd(plain: Executor) -> None:
    argument = "x" * 100_000
    (name,) = plain.give(plain.order("/bin/sh", "-c", 'printf %s "$1$2"', "sh", argument, argument))
    assert plain.end(name)["logs"] == [200_000]


def test_a_memfd_that_is_not_sealed_is_refused(plain: Executor) -> None:
    memfd = os.memfd_create("order", os.MFD_ALLOW_SEALING)
    os.write(memfd, encode({"m": "start", "epoch": plain.hello["epoch"], "orders": []}))
    plain.send({"m": "memfd"}, [memfd])
    os.close(memfd)
    plain.until(lambda: bool(plain.errors), "an error")
    assert "not sealed" in plain.errors[0]
    assert plain.run("true", "")["code"] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"not json",
        b"[]",
        b'{"m":"start"}',
        b'{"m":"stop","ids":7}',
        b'{"m":"stop","ids":["x"],"grace":"soon"}',
        b'{"m":"ack"}',
        b'{"m":"what"}',
        b'{"m":"memfd"}',
        b'{"m":"attach","v":99,"session":"x"}',
        b"\xff\xfe",
        b"{" * 50_000,
    ],
)
def test_a_malformed_message_harms_no_job(plain: Executor, data: bytes) -> None:
    (running,) = plain.give(plain.order("exec sleep 1000"))
    plain.pid(running)
    plain._ours.send(data)
    if data != b'{"m":"start"}':  # of no epoch, so of another server
        plain.until(lambda: bool(plain.errors), "an error")
    assert plain.run("true", "")["code"] == 0
    assert running not in plain.ends


@pytest.mark.parametrize("change", [{"argv": "x"}, {"logs": 3}, {"env": {"a": 1}}, {"grace": None}, {"stdin": True}])
def test_a_malformed_order_ends_as_one_that_was_not_started(plain: Executor, change: dict[str, object]) -> None:
    order = plain.order("true", "")
    fd = os.open("/dev/null", os.O_WRONLY)
    plain.send({"m": "start", "epoch": plain.hello["epoch"], "orders": [{**order, **change}]}, [fd])
    os.close(fd)
    end = plain.end(order["id"])
    assert end["reason"] == "spawn failed"
    assert "malformed order" in end["detail"]


def test_orders_that_lost_their_descriptors_wait_until_there_is_room(pyz: Path, tmp_path: Path) -> None:
    # Of the same user as this test, which is to change its limits.
    with Executor(pyz, tmp_path, "--isolate", "none", "--allow-root-jobs") as executor:
        executor.attach()
        inner = executor.inner_pid
        hard = resource.prlimit(inner, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(inner, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{inner}/fd")) + 2, hard))
        orders = [executor.order("echo x") for _ in range(8)]
        names = executor.give(*orders)
        executor.until(lambda: any(m["m"] == "short" for m in executor.said), "what is short")
        # A server that comes meanwhile finds them, and they can be cancelled.
        assert executor.attach("another")["waiting"] == names
        executor.stop(names[-1])
        end = executor.end(names[-1])
        assert (end["reason"], end["started"]) == ("cancelled", None)
        resource.prlimit(inner, resource.RLIMIT_NOFILE, (hard, hard))
        assert [end["code"] for end in executor.finish(orders[:-1])] == [0] * 7
        assert executor.run("true", "")["code"] == 0


@pytest.fixture
def memory() -> Iterator[int]:
    """As a server shares it, for the flags of orders."""
    fd = os.memfd_create("start flags", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("limits", [{}, {"open_files": 100}], ids=["spawned", "forked"])
def test_the_flag_of_an_order_is_set_when_it_starts_and_nothing_starts_once_that_cannot_be(
    plain: Executor, memory: int, limits: dict[str, int]
) -> None:
    plain.send({"m": "flags", "epoch": plain.hello["epoch"]}, [memory])
    orders = [plain.order("exec sleep 1000", slots=2, flag=flag, limits=limits) for flag in (2, 0, 5)]
    first, second, third = plain.give(*orders)
    plain.until(lambda: {first, second} <= plain.started.keys(), "as many starts as there are places")
    assert os.pread(memory, 6, 0) == b"\1\0\1\0\0\0"
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    plain.stop(first)
    plain.end(first)
    plain.until(lambda: any(m["m"] == "short" for m in plain.said), "what is short")
    snapshot = plain.attach("another")
    assert snapshot["waiting"] == [third]
    assert [job["id"] for job in snapshot["running"]] == [second]
    assert os.pread(memory, 6, 0) == b"\1\0\1\0\0\0"
    plain.stop(second, third)
    plain.end(second)


def test_an_order_whose_flag_cannot_be_set_for_want_of_the_memory_is_ordered_again(
    plain: Executor, memory: int
) -> None:
    flagged = plain.order("true", flag=3)
    (name,) = plain.give(flagged)
    plain.until(lambda: plain.asked_again, "its question for another snapshot")
    assert plain.attach("another")["waiting"] == []
    plain.send({"m": "flags", "epoch": plain.hello["epoch"]}, [memory])
    plain.give(flagged)
    assert plain.end(name)["code"] == 0
    assert os.pread(memory, 4, 0) == b"\0\0\0\1"


def test_a_receiver_without_room_for_descriptors_is_told(tmp_path: Path) -> None:
    code = """
import os, resource, socket, sys
sys.path.insert(0, sys.argv[1])
from executor.protocol import Connection, DescriptorsLostError, close_all
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
Connection(a).send({"m": "start"}, [0] * 20)
resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
try:
    Connection(b).receive()
except DescriptorsLostError as error:
    close_all(error.fds)
    print(error, error.message, len(os.listdir("/proc/self/fd")))
"""
    folder = Path(sys.modules[Connection.__module__].__file__ or "").parent.parent
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "descriptors were lost on the way (out of file descriptors?) {'m': 'start'} 6\n"


def test_what_a_dead_peer_had_sent_is_still_received() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = Connection(ours), Connection(theirs)
    assert other.receive() is None
    assert one.send({"m": "last"})
    assert other.send({"m": "never read"})
    ours.close()
    assert other.receive() == ({"m": "last"}, [])
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(BrokenPipeError):
        other.send({"m": "x"})
    theirs.close()


def test_a_full_socket_sends_nothing_of_a_message() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = Connection(ours), Connection(theirs)
    sent = 0
    while one.send({"m": "x", "n": sent, "text": "\udcff" + "x" * 200_000}):
        sent += 1
    assert not one.crowded
    for number in range(sent):
        received = other.receive()
        assert received is not None
        assert (received[0]["n"], received[0]["text"][0]) == (number, "\udcff")
    assert other.receive() is None
    ours.close()
    theirs.close()


def test_a_datagram_that_is_too_long_is_an_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open("/dev/null", os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null]))]
    ours.sendmsg([b"x" * 70_000], rights)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProtocolError):
        Connection(theirs).receive()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(null)
    ours.close()
    theirs.close()


def _hear(connection: Connection, said: list[Message], kind: str) -> None:
    def heard() -> bool:
        while (received := connection.receive()) is not None:
            said.append(received[0])
        return bool(said) and said[-1]["m"] == kind

    wait_until(heard, kind)


def test_an_executor_that_connects_outlives_its_servers(pyz: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    process = subprocess.Popen([sys.executable, "-I", "-S", str(pyz), "--connect", str(path), "--allow-root-jobs"])
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        epochs = set()
        for life in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(str(path))
                listener.listen(1)
                listener.settimeout(30)
                sock, _ = listener.accept()
            path.unlink()
            connection = Connection(sock)
            said: list[Message] = []
            connection.send({"m": "attach", "v": 1, "session": f"s{life}", "features": []})
            _hear(connection, said, "snapshot")
            epochs.add(said[0]["epoch"])
            running = next(m["running"] for m in said if m["m"] == "snapshot")
            assert isinstance(running, list)
            assert len(running) == (life > 0)
            if life == 0:
                order = {
                    "id": "b/0", "argv": ["sleep", "1000"], "env": {}, "cwd": "", "stdin": False, "logs": 1,
                    "slots": 9, "timeout": None, "grace": 1, "linger": 1, "log_bytes": None, "limits": {},
                }  # fmt: skip
                connection.send({"m": "start", "epoch": said[0]["epoch"], "orders": [order]}, [log])
                _hear(connection, said, "started")
            sock.close()
        assert len(epochs) == 1
    finally:
        os.close(log)
        process.terminate()
        process.wait(30)

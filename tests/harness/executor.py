"""A real executor process at the other end of a real socketpair, spoken to as the server does."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from jobworker.executor.protocol import CROWDED_RETRY_SECONDS, FEATURES, Connection, End, Message, Order
from tests.harness import scratch

DEADLINE_SECONDS = 30.0
BATCH = "019312d4-5c00-7abc-8def-0123456789ab"


class Executor:
    """Starts the zipapp and keeps what it says: `started` and `ends` by id, `errors`, `hello`."""

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        *options: str,
        python: str = sys.executable,
        prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        sees_tests: bool = True,
        **popen: Any,
    ) -> None:
        self.folder = folder
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = Connection(self._ours)
        seen: list[str] = []
        if sees_tests:
            # Jobs may write the folder, and find the Python of the tests.
            folder.chmod(0o777)
            seen += ["--writable", str(folder), "--writable", str(scratch.ROOT)]
            for path in scratch.PROGRAMS:
                seen += ["--readable", path]
        self.stderr_path = folder / "executor.stderr"
        with self.stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*prefix, python, "-I", "-S", str(bundle), "--fd", str(self._theirs.fileno()), *seen, *options],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                env=env,
                pass_fds=[self._theirs.fileno(), *pass_fds],
                **popen,
            )
        self.hello: Message = {}
        self.started: dict[str, Any] = {}
        self.ends: dict[str, End] = {}
        self.errors: list[str] = []
        self.said: list[Message] = []
        self.acknowledges = True
        self.asked_again = False  # to attach
        self._count = 0

    # What the server does.

    def attach(self, session: str = "a session", *, features: Sequence[str] = FEATURES) -> Message:
        """Attaches as a new server would, and waits for the snapshot's last part; returns the snapshot joined."""
        self.send({"m": "attach", "v": 1, "session": session, "features": list(features)})
        snapshot: Message = {"waiting": [], "running": [], "ended": []}
        self.asked_again = False
        while True:
            message = self.receive()
            if message["m"] == "hello" and message["session"] == session:
                self.hello = message
                break
        while True:
            message = self.receive()
            assert message["m"] == "snapshot", message
            snapshot["waiting"] += message["waiting"]
            snapshot["running"] += message["running"]
            snapshot["ended"] += message["ended"]
            if message["last"]:
                return snapshot

    def order(self, *argv: str, name: str | None = None, separate: bool = False, **fields: Any) -> Order:
        """An order with the defaults of a quiet test; one argument is a shell command."""
        self._count += 1
        order: Any = {
            "id": name or f"{BATCH}/{self._count}",
            "argv": list(argv) if len(argv) != 1 else ["/bin/sh", "-c", argv[0]],
            "env": {},
            "slots": 10_000,
            "cwd": "",
            "stdin": False,
            "logs": 2 if separate else 1,
            "timeout": None,
            "grace": 5.0,
            "linger": 5.0,
            "log_bytes": None,
            "limits": {},
        }
        order.update(fields)
        return order

    def give(self, *orders: Order, stdin: Iterable[bytes | None] = (), epoch: str | None = None) -> list[str]:
        """Sends orders in one message, with fresh logs; returns their ids."""
        inputs = list(stdin)
        fds: list[int] = []
        for at, order in enumerate(orders):
            if order["stdin"]:
                content = inputs[at]
                assert content is not None
                fds.append(os.memfd_create("stdin"))
                os.write(fds[-1], content)
                os.lseek(fds[-1], 0, os.SEEK_SET)
            for number in range(order["logs"]):
                path = self.log_path(order["id"], number)
                fds.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        try:
            self.send({"m": "start", "epoch": epoch or self.hello["epoch"], "orders": list(orders)}, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return [order["id"] for order in orders]

    def run(self, *argv: str, stdin: bytes | None = None, **fields: Any) -> End:
        """Runs one job to its end."""
        order = self.order(*argv, stdin=stdin is not None, **fields)
        (name,) = self.give(order, stdin=[stdin])
        return self.end(name)

    def stop(self, *ids: str, grace: float | None = None) -> None:
        """Cancels."""
        self.send({"m": "stop", "ids": list(ids), "reason": "cancelled", "grace": grace})

    def end(self, name: str) -> End:
        """Waits for a job's end."""
        self.until(lambda: name in self.ends, f"the end of {name}")
        return self.ends[name]

    def finish(self, orders: Sequence[Order]) -> list[End]:
        """Waits for the end of each, and does as a server does when orders never arrived: it orders them again."""
        sessions = 0
        while not all(order["id"] in self.ends for order in orders):
            self.until(lambda: self.asked_again or all(order["id"] in self.ends for order in orders), "all ends")
            if self.asked_again:
                sessions += 1
                snapshot = self.attach(f"session {sessions}")
                self._keep({"m": "ended", "jobs": [end for end in snapshot["ended"] if end["id"] not in self.ends]})
                known = {*snapshot["waiting"], *(job["id"] for job in (*snapshot["running"], *snapshot["ended"]))}
                missing = [order for order in orders if order["id"] not in known and order["id"] not in self.ends]
                for at in range(0, len(missing), 64):
                    self.give(*missing[at : at + 64])
        return [self.ends[order["id"]] for order in orders]

    def pid(self, name: str) -> int:
        """Waits for a job's start. The pid is in the executor's pid namespace."""
        self.until(lambda: name in self.started, f"the start of {name}")
        pid: int = self.started[name]["pid"]
        return pid

    def log_path(self, name: str, number: int = 0) -> Path:
        """Where the harness had a job's log written."""
        return self.folder / f"{name.replace('/', '.')}.{number}"

    def log(self, name: str, number: int = 0) -> bytes:
        """What is in it now."""
        return self.log_path(name, number).read_bytes()

    # Transport.

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends, waiting for room."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.connection.send(message, fds):
            assert time.monotonic() < deadline, "the executor takes no message"
            if self.connection.crowded:
                time.sleep(CROWDED_RETRY_SECONDS)
            else:
                select.select([], [self._ours], [], 1)

    def receive(self) -> Message:
        """The next message, whatever it is; it is kept as well."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            received = self.connection.receive()
            if received is not None:
                assert received[1] == []
                self._keep(received[0])
                return received[0]
            assert time.monotonic() < deadline, f"the executor says nothing; stderr: {self.stderr_path.read_text()}"
            select.select([self._ours], [], [], 1)

    def until(self, condition: Callable[[], bool], what: str = "a condition") -> None:
        """Hears the executor until a condition holds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}; stderr: {self.stderr_path.read_text()}")
            received = self.connection.receive()
            if received is None:
                select.select([self._ours], [], [], 0.02)
            else:
                self._keep(received[0])

    def _keep(self, message: Message) -> None:
        self.said.append(message)
        if message["m"] == "started":
            for job in message["jobs"]:
                assert job["id"] not in self.ends, "an end was told before its start"
                self.started[job["id"]] = job
        elif message["m"] == "ended":
            for end in message["jobs"]:
                assert end["id"] not in self.ends, "an end was told twice"
                self.ends[end["id"]] = end
            if self.acknowledges:
                self.send({"m": "ack", "ids": [end["id"] for end in message["jobs"]]})
        elif message["m"] == "hello":
            self.asked_again = bool(self.hello) and message["session"] is None
        elif message["m"] == "error":
            self.errors.append(message["detail"])

    # The process.

    @property
    def inner_pid(self) -> int:
        """The pid, as seen from here, of the process that holds the jobs."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.until(lambda: bool(path.read_text().split()), "the inner process")
        return int(path.read_text().split()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        if self.process.poll() is None:
            inner = self.inner_pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, signal.SIGKILL)
            self.process.wait(DEADLINE_SECONDS)
        self._ours.close()
        self._theirs.close()


def alive(pid: int) -> bool:
    """Runs, and is not a zombie: PID 1 of a test machine may be slow to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], what: str = "a condition") -> None:
    """Waits for something that no message tells."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def marked(text: str) -> list[int]:
    """The living processes, anywhere, whose command line holds a text."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line and alive(int(name)):
                found.append(int(name))
    return found

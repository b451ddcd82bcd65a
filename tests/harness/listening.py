"""A server that listens for its executor, and an executor that connects to it, each started by itself as a container or
a systemd unit starts them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobworker.executor import bundle
from jobworker.executor.protocol import Connection, Message
from tests.harness.pki import make_pki
from tests.harness.service import Api, free_port
from tests.harness.wait import children, until


class Listening:
    """Server and executor in a folder. `prefix`: what the executor is started through, setpriv say."""

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), **settings: str) -> None:
        self.folder = folder
        self.path = folder / "socket" / "executor.sock"
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.executor: subprocess.Popen[bytes] | None = None
        self._prefix = prefix
        self._settings = settings
        self._apis: list[Api] = []
        self.passwords = make_pki(folder / "pki").passwords
        bundle.build(str(folder / bundle.NAME))

    def start_server(self) -> subprocess.Popen[bytes]:
        """Starts it; does not wait."""
        settings = {
            **{f"PATHS__{name.upper()}": str(self.folder / name) for name in ("data", "logs", "pki", "run")},
            "EXECUTOR__SOCKET": str(self.path),
            "GRPC__PORT": str(self.port),
            "REST__ENABLED": "false",
            "METRICS__ENABLED": "false",
            **self._settings,
        }
        with (self.folder / "server").open("ab") as output:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "jobworker.server.cli", "server"],
                env={**os.environ, **{f"JOBWORKER_{k}": v for k, v in settings.items()}},
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        return self.server

    def start_executor(self, *options: str) -> subprocess.Popen[bytes]:
        """Starts it; does not wait."""
        # Any user can run the system's Python; this test's may lie in a home folder.
        python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable
        command = [*self._prefix, python, "-I", "-S", str(self.folder / bundle.NAME), "--connect", str(self.path)]
        if not self._prefix:
            command.append("--allow-root-jobs")  # it is to stay the server's user
        with (self.folder / "executor").open("ab") as output:
            self.executor = subprocess.Popen(
                [*command, *options], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        return self.executor

    def start(self) -> Listening:
        """Both, and an attached executor whose jobs do not see the socket."""
        self.start_server()
        self.start_executor("--hide", str(self.path.parent))
        self.attached(1)
        return self

    def kill_server(self) -> None:
        """kill -9."""
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def kill_executor(self) -> None:
        """kill -9 of its inner process, with which all its jobs end."""
        assert self.executor is not None
        os.kill(self.inner, signal.SIGKILL)
        self.executor.wait(60)

    @property
    def inner(self) -> int:
        """The process that talks with the server."""
        assert self.executor is not None
        (pid,) = children(self.executor.pid)
        return pid

    def said(self, name: str = "server") -> str:
        """What one of them printed."""
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def attached(self, times: int) -> None:
        """Waits until that many executors, or the same one so often, were let in."""
        until(lambda: self.said().count("executor attached") >= times, f"{times} attached: {self.said()}")

    def api(self, user: str = "alice") -> Api:
        """A client of one of its users."""
        api = Api(self.port, self.folder / "pki" / "clients" / user)
        self._apis.append(api)
        api.login(user, self.passwords[user])
        return api

    def stop(self) -> None:
        """Ends both."""
        for api in self._apis:
            api.close()
        for process in (self.executor, self.server):
            if process is not None:
                for pid in children(process.pid):
                    os.kill(pid, signal.SIGCONT)  # a test may have stopped the inner one
                process.terminate()
        for process in (self.executor, self.server):
            if process is not None:
                process.wait(60)


class Stranger:
    """A process that connects to the server's socket and says what an executor says."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(str(path))
        self.socket.settimeout(60)

    def say_hello(self, **more: Any) -> None:
        """A hello with a key of its own."""
        hello: Message = {
            "m": "hello", "v": 1, "epoch": "e" * 32, "session": None, "key": "k" * 64, "pid": 1, "isolation": "none",
            "isolation_detail": "", "tree": "", "features": [], "stopping": False, "since": 1,
        }  # fmt: skip
        connection = Connection(self.socket)
        with suppress(ConnectionError):  # turned away by its uid before it said anything
            connection.send({**hello, **more})
        self.socket.settimeout(60)

    def answer(self) -> bytes:
        """What the server says to it; nothing: it was turned away."""
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""
        finally:
            self.socket.close()

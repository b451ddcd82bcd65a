"""`jobctl` as users run it: a process of its own, without a terminal or at one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.harness.service import Service

JOBCTL = str(Path(sys.executable).with_name("jobctl"))
RUN_SECONDS = 60.0

# Gives the process its standard input as controlling terminal, as login(1) does: Ctrl-C and /dev/tty work.
_AT_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Jobctl:
    """A user's shell, so to say: a bundle, a service, and a cache of tokens."""

    def __init__(self, service: Service, cache: Path, user: str = "alice") -> None:
        self.service = service
        self.user = user
        self.password = service.passwords[user]
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("JOBCTL_")},
            "JOBCTL_SERVER": f"localhost:{service.port}",
            "JOBCTL_BUNDLE": str(service.pki / "clients" / user),
            "XDG_CACHE_HOME": str(cache),
            "TERM": "xterm",
            "TZ": "UTC",
            "COLUMNS": "120",
        }

    def __call__(self, *arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Runs it to its end, without a terminal."""
        return subprocess.run(
            [JOBCTL, *arguments],
            input=stdin,
            capture_output=True,
            env={**self.environment, **environment},
            timeout=RUN_SECONDS,
            check=False,
        )

    def start(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Starts it."""
        popen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        return subprocess.Popen([JOBCTL, *arguments], env=self.environment, **popen)

    def login(self) -> Jobctl:
        """Logs in."""
        done = self("login", JOBCTL_PASSWORD=self.password)
        assert done.returncode == 0, done.stderr
        return self

    def id_of(self, *arguments: str) -> str:
        """Submits, and the CorrelationID."""
        done = self("submit", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def json(self, *arguments: str) -> Any:
        """What a command prints with -o json; of several lines the first."""
        done = self(*arguments, "-o", "json")
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout.splitlines()[0])


class Terminal:
    """`jobctl` at a terminal: `output` is all that it has shown so far."""

    def __init__(self, jobctl: Jobctl, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AT_TERMINAL, JOBCTL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**jobctl.environment, **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def type(self, text: str) -> None:
        """Keys; "\\x03" is Ctrl-C."""
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Its exit status, once everything it showed is in `output`."""
        try:
            return self.process.wait(RUN_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            os.close(self._master)

    def _read(self) -> None:
        try:
            while piece := os.read(self._master, 65536):
                self.output += piece
        except OSError:  # EIO: the last process has closed the terminal
            pass

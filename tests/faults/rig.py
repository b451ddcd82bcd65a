"""The service under test: its processes, and the ways in which they die, stop and come back. What dies is noted in the
history: it says what may be LOST."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.history import Death, Died, History
from tests.harness.service import Service
from tests.harness.wait import alive, children, until

_BOOT_ID = "/proc/sys/kernel/random/boot_id"  # proc(5)
_BACK_SECONDS = 300.0  # far more than it takes: a slow machine is not a fault
# So long the server may go on giving jobs to an executor that is dead: until it has read that it is.
_KNOWN_SECONDS = 30.0
# The supervisor goes with whoever started it, even when that one is killed.
_TIED = ("setpriv", "--pdeathsig", "TERM")


class NotBackError(Exception):
    """The service did not come back in time."""


class Rig:
    """One service, over all its lives."""

    def __init__(self, folder: Path, history: History, **settings: str) -> None:
        self.service = Service(folder, **settings)
        self.service.deadline_seconds = _BACK_SECONDS
        self._history = history
        self._boot: Path | None = None  # this life of the machine, where it is not the real one
        self._stopped: list[int] = []
        self._family: list[int] = []

    # -- lives

    def start(self) -> None:
        """Starts it, and waits until it answers.

        Raises:
            NotBackError: it does not.
        """
        prefix = _TIED
        if self._boot is not None:
            script = f'mount --bind "$0" {_BOOT_ID} && exec "$@"'
            prefix = (*_TIED, "unshare", "--mount", "sh", "-c", script, str(self._boot))
        with self._back():
            self.service.start(prefix=prefix)

    def ready(self) -> None:
        """Waits until all of it is there again.

        Raises:
            NotBackError: it is not.
        """
        with self._back():
            self.service.ready()
            self.pid("executor")

    @contextlib.contextmanager
    def _back(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except AssertionError as error:
            seconds = time.monotonic() - began
            raise NotBackError(f"after {seconds:.0f} s: {str(error)[-1500:]}") from error

    def stop(self) -> None:
        """SIGTERM, and its end; SIGKILL where that does not come."""
        self._history.interruptions.append(time.monotonic())
        if self.service._process is None:
            return
        self.resume()
        try:
            self.service.stop()
        except AssertionError:
            self._dies(Death.EXECUTOR).ended = time.monotonic()
        self._history.interruptions.append(time.monotonic())

    # -- its processes

    def pid(self, name: str) -> int:
        """supervisor, server, executor (the outer of its two processes) or jobs' parent (the inner)."""
        if name == "supervisor":
            return self.service.pid
        if name == "inner":
            return until(
                lambda: next(iter(children(self.service.child("executor"))), None), "the executor's inner process"
            )
        return self.service.child(name)

    def family(self) -> list[int]:
        """All of them that are there now, those first that start others anew."""
        found = [self.service.pid]
        for child in children(self.service.pid):
            found += [child, *children(child)]
        return found

    # -- deaths

    def kill_server(self) -> None:
        """kill -9; the supervisor starts the next."""
        self._kill(self.pid("server"))

    def kill_executor(self, *, inner: bool) -> None:
        """kill -9 of the process that holds the jobs, or of the one around it."""
        pid = self.pid("inner" if inner else "executor")
        died = self._dies(Death.EXECUTOR)
        self._kill(pid)
        if inner:  # with the other the kernel ends it, some time
            died.gone = time.monotonic()
        with self._back():
            self.pid("inner")
        died.gone = min(died.gone, time.monotonic())
        died.ended = time.monotonic() + _KNOWN_SECONDS

    def kill_supervisor(self) -> None:
        """kill -9; the others are to go with it, in order: the executor is told to stop."""
        family = self.family()
        self._history.interruptions.append(time.monotonic())
        died = self._dies(Death.EXECUTOR)
        self._kill(family[0])
        self._gone(family)
        died.gone = died.ended = time.monotonic()

    def kill_all(self, death: Death = Death.EXECUTOR) -> None:
        """kill -9 of all at once."""
        self.shoot(death)
        self.buried()

    def shoot(self, death: Death) -> None:
        """The first half of `kill_all`: nobody is waited for."""
        self._family = self.family()
        self._dying = self._dies(death)
        # Stopped before the first is killed: else the executor might hear of its parent's end, and end jobs in order.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self._family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def buried(self) -> None:
        """The second half."""
        self._gone(self._family)
        self._dying.gone = self._dying.ended = time.monotonic()

    def reboot(self) -> None:
        """The next start is in another life of the machine, by the one mark that a process can know it by."""
        self._boot = self.service.folder / "boot_id"
        self._boot.write_text(f"{uuid.uuid4()}\n")

    def pause(self, name: str) -> None:
        """SIGSTOP, and when it returns no thread is in a system call any more; `all` is all of them."""
        self._stopped = self.family() if name == "all" else [self.pid(name)]
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in self._stopped:
            self._wait(lambda pid=pid: _all_stopped(pid), f"process {pid} to stop")

    def resume(self) -> None:
        """SIGCONT to those."""
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped = []

    def _dies(self, death: Death) -> Died:
        died = Died(death, time.monotonic())
        self._history.deaths.append(died)
        return died

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._wait(lambda: not alive(pid), f"the end of process {pid}")

    def _gone(self, family: list[int]) -> None:
        for pid in family:
            self._wait(lambda pid=pid: not alive(pid), f"the end of process {pid}")
        process, self.service._process = self.service._process, None
        if process is not None:
            process.wait()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._back():
            until(condition, what, _BACK_SECONDS)


def _all_stopped(pid: int) -> bool:
    """Every thread of a process, or it is gone."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_bytes().rpartition(b") ")[2][:1] not in b"TZX":
                return False
    return True


def descriptors(pid: int) -> list[str]:
    """What each open descriptor of a process is."""
    folder = f"/proc/{pid}/fd"
    found = []
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"{folder}/{fd}"))
    return sorted(found)

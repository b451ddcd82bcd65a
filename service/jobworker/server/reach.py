"""How the server comes to its executor: by a socket that its supervisor hands down, or by listening for it."""

from __future__ import annotations

import ctypes
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from jobworker.server.config.model import Executor
from jobworker.server.scheduling.admission import Admission, PathTakenError
from jobworker.server.scheduling.local import LocalWorker
from jobworker.server.scheduling.scheduler import Scheduler
from jobworker.server.telemetry.log import Log

PR_SET_PDEATHSIG = 1  # prctl(2)


class StartError(Exception):
    """The server cannot start; one line says what is at fault."""


def inherited(fd: int) -> socket.socket:
    """The socket that the supervisor handed down, without which nobody would start the server again, or stop it.

    Raises:
        StartError: the descriptor is not a socket.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # lifetimes nest
    try:
        link = socket.socket(fileno=fd)
        link.set_inheritable(False)
    except OSError as e:
        raise StartError(f"descriptor {fd} is not a socket to an executor: {e.strerror}") from e
    return link


def listen(
    keys: Executor,
    beneath: Callable[[Path], Path],
    *,
    worker: LocalWorker,
    scheduler: Scheduler,
    log: Log,
    clock: Callable[[], float],
) -> Admission:
    """Listens at `executor.socket`, which is set. `beneath`: makes of a path what leads through the folders that are
    held. `clock`: monotonic seconds.

    Raises:
        StartError: it cannot be listened there.
    """
    if keys.socket is None:
        raise StartError("executor.socket: is not set")
    admission = Admission(
        path=beneath(keys.socket),
        uid=keys.uid,
        worker=worker,
        busy=lambda: scheduler.running > 0,
        log=log,
        clock=clock,
    )
    try:
        admission.open()
    except PathTakenError as e:
        raise StartError(str(e)) from e
    return admission

"""Starts a process with limits of its own. Slower than posix_spawn(3), which cannot set any: the child is forked."""

import os
import resource
import signal
import subprocess
from typing import List, Optional, Sequence, Tuple

from . import shortage
from .protocol import OrderLimits

_RESOURCES = {
    "memory_bytes": resource.RLIMIT_AS,
    "cpu_seconds": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "file_size_bytes": resource.RLIMIT_FSIZE,
}


class RefusedError(Exception):
    """The process cannot be started with these limits; nothing was."""


def spawn(
    path: str,
    argv: Sequence[bytes],
    env: Sequence[bytes],
    fds: Sequence[int],
    order: OrderLimits,
    *,
    open_files: Tuple[int, int],
    folder: Optional[int],
) -> int:
    """The pid of the new process, leader of its own session; `fds` become its 0, 1 and 2. `open_files`: RLIMIT_NOFILE,
    soft and hard, where the order has none. `folder`: a descriptor of where it starts; None: where this process is.

    Raises:
        OSError: of the fork, or of the exec.
        RefusedError: the limits leave no room for the exec, or cannot be set.
    """
    wanted = [(resource.RLIMIT_NOFILE, *open_files), *_rlimits(order)]

    def prepare() -> None:
        # In the child: nothing but system calls, since another thread may have held any lock at the fork.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if folder is not None:
            os.fchdir(folder)
        for number, soft, hard in wanted:
            resource.setrlimit(number, (soft, hard))

    try:
        process = subprocess.Popen(
            argv,
            executable=path,
            env=dict(variable.split(b"=", 1) for variable in env),
            stdin=fds[0],
            stdout=fds[1],
            stderr=fds[2],
            close_fds=False,  # every other one is close-on-exec
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  one that takes no lock
        )
    except subprocess.SubprocessError as error:
        # In the child, which has no more room to say what it was.
        raise RefusedError(str(error)) from error
    except OSError as error:
        # Only of the child is a file told, and what it is short of is what its own limits leave it.
        if error.filename is not None and shortage.kind(error) is not None:
            raise RefusedError(error.strerror) from error
        raise
    # Popen must never wait for it: it would reap a process whose pid is still in use here.
    process.returncode = 0
    return process.pid


def _rlimits(order: OrderLimits) -> List[Tuple[int, int, int]]:
    wanted = []
    for name, number in _RESOURCES.items():
        value = order.get(name)
        if value is None:
            continue
        top = resource.getrlimit(number)[1]
        hard = int(value) if top == resource.RLIM_INFINITY else min(int(value), top)  # type: ignore[call-overload]
        soft = hard
        if number == resource.RLIMIT_CPU and (top == resource.RLIM_INFINITY or hard < top):
            hard += 1  # SIGXCPU at the soft limit, SIGKILL at the hard one: setrlimit(2)
        wanted.append((number, soft, hard))
    return wanted

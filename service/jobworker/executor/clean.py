"""What the executor was started with does not reach a job: signals, umask, priority, limits, descriptors, environment.

Called once, first, by the process that will hold jobs. It knows nothing of jobs.
"""

import os
import pwd
import resource
import signal
from typing import Collection, Dict, Optional

from . import libc

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The soft limits that a login on a usual Linux has (getrlimit(2), linux/resource.h INIT_RLIMITS), capped by the hard
# ones, which stay as the operator gave them. Those not named are as high as the hard limit lets them.
JOB_OPEN_FILES = 1024
_SOFT_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_STACK: 8 << 20,
    resource.RLIMIT_MEMLOCK: 8 << 20,
    resource.RLIMIT_MSGQUEUE: 819_200,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_RTPRIO: 0,
}


def clean_process(keep: Collection[int]) -> None:
    """Brings the process into the state that jobs are to start with, but for RLIMIT_NOFILE, which is at its most."""
    _signals()
    os.umask(0o022)
    os.chdir("/")
    _descriptors(keep)
    os.environ.clear()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except PermissionError:
        pass  # it was started nicer than usual and may not take that back (setpriority(2))
    for name in ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "SIGPENDING",
                 "MSGQUEUE", "NICE", "RTPRIO"):  # fmt: skip
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            _soft_limit(number, _SOFT_LIMITS.get(number))


def job_environment(path: Optional[str], home: Optional[str] = None) -> Dict[str, str]:
    """The documented minimum that each job's environment begins with."""
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = "/"
        if not os.path.isdir(home):
            home = "/"
    return {"PATH": path or PATH, "HOME": home, "LANG": "C.UTF-8"}


def job_open_files() -> int:
    """The soft RLIMIT_NOFILE of a job."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return JOB_OPEN_FILES if hard == resource.RLIM_INFINITY else min(JOB_OPEN_FILES, hard)


def limit_processes(most: int) -> None:
    """Lowers the soft RLIMIT_NPROC of this process and its jobs, which counts all of their user's processes."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))


def _signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    libc.default_internal_signals()
    # Python itself wants SIGPIPE and SIGXFSZ ignored, and an ignored signal stays ignored over an exec. A blocked one
    # has the same use here, and posix_spawn empties the mask.
    libc.block_all_signals()


def _descriptors(keep: Collection[int]) -> None:
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the one that listed them
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    for fd in (1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # A free 1 or 2 would be given to the next pipe.
            os.dup2(null, fd)
    if null > 2:
        os.close(null)
    for fd in keep:
        os.set_inheritable(fd, False)


def _soft_limit(number: int, wanted: Optional[int]) -> None:
    hard = resource.getrlimit(number)[1]
    soft = hard if wanted is None else wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(number, (soft, hard))
    except (OSError, ValueError):
        pass  # a kernel may refuse a soft limit that the hard one allows (RLIMIT_NOFILE above fs.nr_open); it stays

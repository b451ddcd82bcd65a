"""`executor --fd N`, `--connect PATH` or `--copy-to FOLDER`: reads the command line and wires the parts."""

import argparse
import os
import resource
import signal
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, List, NoReturn, Optional

from . import bundle, clean, door, guard, isolation, libc, protocol, tree
from .control import Control
from .door import Door
from .greed import Greed
from .memory import MemoryKills, find_group
from .orphans import Orphans
from .outbox import Outbox
from .pump import Pump
from .reap import Reaper
from .session import Session
from .spawn import Spawner
from .start import Starter
from .timers import Timers

TREE = "orphans by session, mark and pipe"

_SOFTWARE_ERROR = 70  # EX_SOFTWARE, sysexits(3)


def main(arguments: Optional[List[str]] = None) -> int:
    """The whole program; returns the status to exit with."""
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    if options.copy_to is not None:
        return bundle.copy_to(options.copy_to, say=say)
    clean.clean_process({options.fd} if options.fd is not None else set())
    # Before the folder is hidden, which takes that it is there.
    folder = door.open_folder(options.connect, say=say) if options.connect is not None else -1
    hidden = [path for path in options.hide if os.path.exists(path)]
    chosen = guard.choose(wanted=options.isolate == "auto", hidden=hidden)
    say(f"isolation: {chosen.kind} ({chosen.detail})")

    def inner(lifeline: Optional[int]) -> None:
        _run(options, chosen, lifeline, folder)

    return guard.run(inner, chosen=chosen, hidden=hidden, parent=parent)


def say(text: str) -> None:
    """A line for the operator. Nobody may be there to read it."""
    try:
        os.write(2, f"executor: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _run(options: argparse.Namespace, chosen: guard.Isolation, lifeline: Optional[int], folder: int) -> None:
    """The inner process: the pump in this thread, the leader; control in another. `folder`: of the server's socket."""
    sys.setswitchinterval(0.001)
    environment = clean.job_environment(options.path, options.home)
    outbox = Outbox()
    timers = Timers()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)

    def wake_control() -> None:
        try:
            os.write(wake_write, b".")
        except BlockingIOError:
            pass  # many wakes are waiting already

    pump = Pump(
        clock=time.monotonic,
        wake_other=wake_control,
        retry_seconds=options.disk_retry,
        patience_seconds=options.disk_patience,
    )
    control = Control(
        outbox=outbox,
        timers=timers,
        pump=pump,
        wake=wake_read,
        signals=libc.signal_descriptor([signal.SIGCHLD, signal.SIGTERM, signal.SIGINT]),
        lifeline=lifeline,
        guard_died=_kill_all_and_exit,
        clock=time.monotonic,
        stop_grace_seconds=options.stop_grace,
        ack_seconds=options.ack_wait,
    )
    since = time.time_ns()

    def info() -> Dict[str, Any]:
        return {
            "isolation": chosen.kind,
            "isolation_detail": chosen.detail,
            "tree": TREE,
            "since": since,
            "stopping": control.stopping,
        }

    control.session = Session(
        fd=options.fd,
        door=None if options.connect is None else _door(options, chosen, folder),
        info=info,
        epoch=os.urandom(16).hex(),
        outbox=outbox,
        worker=control,
        say=say,
    )
    control.starter = Starter(
        spawner=Spawner(environment=environment, open_files=clean.job_open_files()),
        null=os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),
        started=control.job_started,
        ended=control.job_ended,
        time_ns=time.time_ns,
        clock=time.monotonic,
        peak_kib=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    orphans = Orphans(adopted=tree.Adopted(), jobs=control.jobs)
    control.reaper = Reaper(
        jobs=control.jobs,
        orphans=orphans,
        pump=pump,
        hand_over=control.hand_over,
        timers=timers,
        memory=MemoryKills(),
        report=control.job_ended,
        clock=time.monotonic,
        time_ns=time.time_ns,
    )

    if options.memory_watch is not None:
        _watch_memory(options.memory_watch, control, orphans, timers)

    def control_thread() -> None:
        _or_die(control.run)
        os._exit(0)

    # Only now: what is opened under /proc/self is another's afterwards.
    isolation.hide_from_jobs()
    threading.Thread(target=control_thread, name="control", daemon=True).start()
    _or_die(pump.run)


def _watch_memory(fraction: float, control: Control, orphans: Orphans, timers: Timers) -> None:
    group = find_group()
    if group is None:
        say("no memory control group is to be seen: --memory-watch does nothing")
        return
    Greed(
        group=group,
        fraction=fraction,
        jobs=control.jobs,
        orphans=orphans,
        kill=lambda job, detail: control.reaper.kill(job, reason=protocol.MEMORY, detail=detail),
        timers=timers,
        clock=time.monotonic,
        say=say,
    ).begin()


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _door(options: argparse.Namespace, chosen: guard.Isolation, folder: int) -> Door:
    own = os.path.realpath(os.path.dirname(os.path.abspath(options.connect)))
    hides = chosen.kind == guard.NAMESPACES and any(
        own == hidden or own.startswith(hidden + "/") for hidden in map(os.path.realpath, options.hide)
    )
    return Door(path=options.connect, folder=folder, hidden=hides, say=say)


def _or_die(work: Callable[[], None]) -> None:
    """Better dead than half alive: jobs must never be stuck on a thread that is gone."""
    try:
        work()
    except BaseException:
        try:
            traceback.print_exc()
        finally:
            os._exit(_SOFTWARE_ERROR)


def _kill_all_and_exit() -> NoReturn:
    guard.kill_all()
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="executor", description="The parent of every job: starts, pumps, reaps.")
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--fd", type=int, help="an open SOCK_SEQPACKET socket to the server")
    ways.add_argument("--connect", metavar="PATH", help="the server's socket; tried again whenever it is not there")
    ways.add_argument("--copy-to", metavar="FOLDER", help="copy this program there, as executor.pyz, and end")
    parser.add_argument("--isolate", choices=("auto", "none"), default="auto", help="own namespaces, where possible")
    parser.add_argument("--hide", metavar="PATH", action="append", default=[], help="what jobs must not see")
    parser.add_argument("--path", help="PATH of the jobs")
    parser.add_argument("--home", metavar="FOLDER", help="HOME of the jobs, where they start; else that of the user")
    parser.add_argument(
        "--memory-watch",
        metavar="FRACTION",
        type=_fraction,
        help="end the job that holds most when so much of the control group's memory limit is held",
    )
    parser.add_argument("--stop-grace", metavar="SECONDS", type=float, default=5.0, help="of jobs, when it is stopped")
    parser.add_argument("--ack-wait", metavar="SECONDS", type=float, default=5.0, help="for the server, when stopped")
    parser.add_argument("--disk-retry", metavar="SECONDS", type=float, default=1.0, help="while a disk is full")
    parser.add_argument("--disk-patience", metavar="SECONDS", type=float, default=60.0, help="then the job is ended")
    return parser

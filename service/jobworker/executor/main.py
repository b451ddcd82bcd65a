"""`executor --fd N`, `--connect PATH` or `--copy-to FOLDER`: reads the command line and wires the parts."""

import argparse
import codecs
import os
import resource
import signal
import sys
import threading
import time
from typing import Any, Dict, Iterable, List, NoReturn, Optional

from . import (
    bundle,
    clean,
    connector,
    identity,
    init,
    isolation,
    landlock,
    libc,
    processes,
    protocol,
    rootfs,
    seccomp,
    tree,
    work,
)
from .connector import ServerConnector
from .control import Control
from .memory import MemoryKills, find_group
from .memorywatchdog import MemoryWatchdog
from .options import options_of
from .orphans import Orphans
from .outbox import Outbox
from .processes import ProcessWatchdog
from .pump import Pump
from .reap import Reaper
from .session import Session
from .spawn import Spawner, Times
from .spawners import Spawners, count_wanted
from .start import Starter
from .startflags import StartFlags
from .threads import or_die
from .timers import Timers

TREE = "orphans by session, mark and pipe"

_TMPS = ("/tmp/", "/var/tmp/")  # noqa: S108
_PRIVATE = 0o077  # umask(2): what a job of one user makes is none of another's business
_EX_CONFIG = 78  # starting again would not help
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts")


def main(arguments: Optional[List[str]] = None) -> int:
    """The whole program; returns the status to exit with."""
    parent = os.getppid()
    options = options_of(arguments)
    if options.copy_to is not None:
        return bundle.copy_to(options.copy_to, say=say)
    _load_codecs()
    clean.clean_process({fd for fd in (options.fd, _own_program()) if fd is not None})
    # Before the folder is hidden, which takes that it is there.
    folder = connector.open_folder(options.connect, say=say) if options.connect is not None else -1
    try:
        if options.uids is not None:
            options.uids = identity.parse(options.uids)
        wishes = _wishes(options)
        chosen = init.choose(wishes)
    except (init.RefusedError, ValueError, OSError) as error:
        say(str(error))
        return _EX_CONFIG
    say(f"isolation: {chosen.kind} ({chosen.detail})")

    def inner(lifeline: Optional[int]) -> None:
        _run(options, wishes, chosen, lifeline, folder)

    return init.run(inner, chosen=chosen, wishes=wishes, parent=parent)


def _wishes(options: argparse.Namespace) -> init.Wishes:
    """What is wanted; makes the folder of the work folders."""
    user = None
    if os.geteuid() == 0 and not options.allow_root_jobs:
        user = isolation.find_user(options.user)
        if user.uid == 0:
            raise init.RefusedError("jobs of root are refused: name another --user, or use --allow-root-jobs")
    if options.uids is not None:
        identity.check_free(options.uids, own=os.geteuid() if user is None else user.uid)
    root = options.work
    batches = None if root is None else f"{root}/{work.BATCHES}"
    if root is not None:
        work.prepare(root, *(user or (os.geteuid(), os.getegid())), others=options.uids is not None)
    view = rootfs.View(
        readable=[*rootfs.READABLE, *options.readable],
        writable=options.writable if batches is None else [*options.writable, batches],
        hidden=options.hide,
        work=batches,
        tmp=None,
    )
    # What lies below the machine's own /tmp takes folders there, and those are to be none on disk.
    if root is not None and not any(path.startswith(_TMPS) for path in (*view.readable, *view.writable)):
        view = view._replace(tmp=f"{root}/{work.TMP}")
    return init.Wishes(
        isolate=options.isolate == "auto",
        setting=isolation.Setting(view, user, options.uids),
        processes=options.processes or processes.find_limit(),
    )


def _load_codecs() -> None:
    """What Python would import when it is first used: in a root of its own the library may not be there any more."""
    for name in ("ascii", "latin-1", "unicode_escape", "utf-8"):
        codecs.lookup(name)


def _own_program() -> Optional[int]:
    """The descriptor that this program was started from (`python3 /proc/self/fd/N`), if it was."""
    head, _, number = sys.argv[0].rpartition("/")
    return int(number) if head == "/proc/self/fd" and number.isdigit() else None


def say(text: str) -> None:
    """A line for the operator. Nobody may be there to read it."""
    try:
        os.write(2, f"executor: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _run(
    options: argparse.Namespace, wishes: init.Wishes, chosen: init.Isolation, lifeline: Optional[int], folder: int
) -> None:
    """The inner process: the pump in this thread, the leader; control in another. `folder`: of the server's socket."""
    sys.setswitchinterval(0.001)
    identities = identity.Identity(options.uids)
    environment = clean.job_environment(options.path, options.home)
    if options.uids is not None:
        os.umask(_PRIVATE)
    if chosen.kind == init.LANDLOCK and options.work is not None:
        environment["TMPDIR"] = f"{options.work}/{work.TMP}"  # the machine's /tmp is not theirs to write
    outbox = Outbox()
    flags = StartFlags()
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
        flags=flags,
        timers=timers,
        pump=pump,
        wake=wake_read,
        signals=libc.signal_descriptor([signal.SIGCHLD, signal.SIGTERM, signal.SIGINT]),
        lifeline=lifeline,
        guard_died=_kill_all_and_exit,
        clock=time.monotonic,
        time_ns=time.time_ns,
        say=say,
        stop_grace_seconds=options.stop_grace,
        ack_seconds=options.ack_wait,
    )
    since = time.time_ns()
    details = [chosen.detail]
    if options.uids is not None:
        details.append(f"a user id for each user, of {options.uids}")

    def info() -> Dict[str, Any]:
        return {
            "isolation": chosen.kind,
            "isolation_detail": "; ".join(details),
            "tree": TREE,
            "since": since,
            "stopping": control.stopping,
            "short": control.room.short,
            **({} if options.uids is None else {"uids": list(options.uids)}),
        }

    control.link.session = Session(
        fd=options.fd,
        connector=None if options.connect is None else _connector(options, wishes, chosen, folder),
        info=info,
        epoch=os.urandom(16).hex(),
        outbox=outbox,
        worker=control,
        flags=flags,
        say=say,
    )
    work_folders = control.work = _work(options.work, wishes, chosen, identities)
    spawner = Spawner(
        environment=environment,
        open_files=clean.job_open_files(),
        times=Times(time.monotonic, time.time_ns),
        flags=flags,
        identities=identities,
    )
    control.starter = Starter(
        spawner=spawner,
        uids=options.uids,
        null=os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),
        started=control.job_started,
        ended=control.job_ended,
        time_ns=time.time_ns,
        allows=control.room.allows,
        postponed=control.room.postpone,
        work=work_folders,
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
    )

    if options.memory_watch is not None:
        _watch_memory(options.memory_watch, control, orphans, timers)
    if wishes.processes is not None:
        _watch_processes(wishes.processes, control, orphans, timers)

    def control_thread() -> None:
        or_die(lambda: details.extend(_restrict(options, wishes, chosen, control.work, spawner)))
        or_die(control.run)
        os._exit(0)

    # Only now: what is opened under /proc/self is another's afterwards.
    isolation.hide_from_jobs()
    threading.Thread(target=control_thread, name="control", daemon=True).start()
    or_die(pump.run)


def _work(
    root: Optional[str], wishes: init.Wishes, chosen: init.Isolation, identities: identity.Identity
) -> Optional[work.Work]:
    if root is None:
        return None
    tmp = {
        init.NAMESPACES: None if wishes.setting.view.tmp is None else "/tmp",  # noqa: S108
        init.CONTAINER: "/tmp",  # noqa: S108
        init.LANDLOCK: f"{root}/{work.TMP}",
    }.get(chosen.kind)
    return work.Work(
        root, tmp=tmp, owns_memory=chosen.kind in (init.NAMESPACES, init.CONTAINER), identities=identities, say=say
    )


def _restrict(
    options: argparse.Namespace,
    wishes: init.Wishes,
    chosen: init.Isolation,
    folders: Optional[work.Work],
    spawner: Spawner,
) -> List[str]:
    """In the thread that starts jobs, which inherit it, and in those that help it. What cannot be had, in words."""
    view, files, ports = wishes.setting.view, chosen.kind == init.LANDLOCK, options.closed_port
    can_close = landlock.can_restrict_ports()
    tmp = [] if options.work is None else [f"{options.work}/{work.TMP}"]  # TMPDIR
    if files or (ports and can_close):
        landlock.restrict(
            readable=[*view.readable, "/proc", os.path.realpath("/etc/resolv.conf")],
            writable=[*view.writable, *tmp, *_DEVICES],
            files=files,
            closed_ports=ports if can_close else (),
        )
    if folders is not None:
        folders.begin()
    spawners = spawner.spawners = Spawners(count_wanted())
    threads = [
        *spawners.thread_ids,
        os.getpid(),
        threading.get_native_id(),
        *([folders.thread_id] if folders and folders.thread_id else []),
    ]
    strict = chosen.kind in (init.LANDLOCK, init.NONE)

    def restrict_calls() -> None:
        seccomp.restrict(
            protected=[*threads, os.getppid()] if strict else threads,
            strict=strict,
            keep_ports=bool(ports) and not can_close,
            threads_change_user=options.uids is not None,
        )

    try:
        restrict_calls()
        spawners.each(restrict_calls)
    except OSError as error:
        lacking = f"no system call filter ({error.strerror or error}): a job can starve the executor"
        say(lacking)
        return [lacking]
    return []


def _watch_processes(limit: int, control: Control, orphans: Orphans, timers: Timers) -> None:
    clean.limit_processes(limit)
    watchdog = ProcessWatchdog(
        limit=limit,
        jobs=control.jobs,
        orphans=orphans,
        kill=lambda job, detail: control.reaper.kill(job, reason=protocol.PROCESSES, detail=detail),
        timers=timers,
        clock=time.monotonic,
        say=say,
    )
    control.room.relieve = watchdog.relieve
    watchdog.begin()


def _watch_memory(fraction: float, control: Control, orphans: Orphans, timers: Timers) -> None:
    group = find_group()
    if group is None:
        say("no memory control group is to be seen: --memory-watch does nothing")
        return
    MemoryWatchdog(
        group=group,
        fraction=fraction,
        jobs=control.jobs,
        orphans=orphans,
        kill=lambda job, detail: control.reaper.kill(job, reason=protocol.MEMORY, detail=detail),
        timers=timers,
        clock=time.monotonic,
        say=say,
    ).begin()


def _connector(
    options: argparse.Namespace, wishes: init.Wishes, chosen: init.Isolation, folder: int
) -> ServerConnector:
    view = wishes.setting.view
    own = os.path.realpath(os.path.dirname(os.path.abspath(options.connect)))

    def below(paths: Iterable[str]) -> bool:
        return any(own == path or own.startswith(path.rstrip("/") + "/") for path in map(os.path.realpath, paths))

    hidden = chosen.kind == init.NAMESPACES and (below(view.hidden) or not below([*view.readable, *view.writable]))
    return ServerConnector(path=options.connect, folder=folder, hidden=hidden, say=say)


def _kill_all_and_exit() -> NoReturn:
    init.kill_all()
    os._exit(0)

"""`jobworker run`: makes the PKI if there is none, and keeps executor and server running (supervision.py).

It holds the socketpair between the two over their deaths, so that a new server finds what the executor had to say, and
jobs never notice. Lifetimes nest: when this process dies, the kernel ends the executor with it (PR_SET_PDEATHSIG).
Imports nothing of the server's: it is to outlive it. What the two are started with (sockets, folders, ports, the
executor's program) it holds from its start, since a machine may have run out of it by then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from jobpki import directory
from jobpki.errors import PkiError
from jobpki.layout import ROOT_MODE
from jobpki.publish import make_folders
from jobworker.executor import bundle, protocol
from jobworker.heldports import PortError, hold_ports, listeners
from jobworker.relay import Relay, open_standard, print_error
from jobworker.server.cli import EX_CONFIG
from jobworker.server.config.model import Settings
from jobworker.server.config.sources import ConfigError, load
from jobworker.server.folders import SERVER_FOLDERS, FolderError, Folders
from jobworker.supervision import Child, Supervision

# In the run folder: what the configuration file held when it was last good, see LiveConfig.
KEPT_CONFIG = "config.toml"
# A line on standard output: the password, once, which lies in a file as well.
_STDOUT_WAIT_MS = 1000


def run(*, config_file: Path | None, allow_root_jobs: bool) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status. `allow_root_jobs`: of a service that is root's."""
    open_standard()
    _keep_descriptors()
    with ExitStack() as held:
        try:
            relay = Relay()
        except OSError as e:
            print_error(str(e.strerror or e))
            return EX_CONFIG
        held.callback(relay.close)
        folders = held.enter_context(closing(Folders()))
        try:
            settings = load(config_file, os.environ).settings
            _prepare(settings, folders)
            held.enter_context(hold_ports(settings, say=relay.say))
        except (ConfigError, FolderError, PkiError, PortError, OSError) as e:
            relay.say(folders.shown(str(e)))
            return EX_CONFIG
        # In memory, and sealed: no job, and nobody else, can put another program in its place.
        program = bundle.build_sealed()
        held.callback(os.close, program)
        for_server, for_executor = map(held.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))

        def executor_command() -> list[str]:
            return _executor_command(settings, folders, program, for_executor.fileno(), allow_root_jobs=allow_root_jobs)

        executor = Child("executor", executor_command, (program, for_executor.fileno()))
        command = _server_command(config_file, folders, for_server.fileno())
        inherited = (for_server.fileno(), *folders.descriptors(*SERVER_FOLDERS).values())
        # It must not be ended by the SIGHUP that it is to read its configuration at: it starts with it blocked, and
        # takes it when it is ready.
        server = Child("server", lambda: command, inherited, blocked=frozenset({signal.SIGHUP}))
        return Supervision(executor, server, gone=lambda: _tell_gone(for_executor), relay=relay).run()


def _keep_descriptors() -> None:
    """Whatever this process was handed beside the standard ones is not for its children."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the one that lists them
                os.set_inheritable(int(name), False)


def _prepare(settings: Settings, folders: Folders) -> None:
    """Opens the folders, for the whole life of the service, and completes the PKI."""
    make_folders(settings.paths.pki, mode=ROOT_MODE)
    folders.hold_server(dict(settings.paths))
    folders.hold("work", settings.paths.work)
    made = directory.initialise(folders.path("pki"), now=datetime.now(UTC))
    for user, password in made.passwords.items():
        _print(f"jobworker: made user {user}, password: {password}\n")
    # Of an earlier life of the service, whose configuration counts no more.
    (folders.path("run") / KEPT_CONFIG).unlink(missing_ok=True)


def _print(text: str) -> None:
    """On standard output, unless nobody reads it."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(_STDOUT_WAIT_MS):
            os.write(1, text.encode())


def _tell_gone(for_executor: socket.socket) -> None:
    """In the executor's place: the socket stays open over its death, so the server would not notice."""
    try:
        protocol.Connection(for_executor).send({"m": "stopping"})
    except OSError:
        return  # there is no server either; the next one begins with a question


def _executor_command(
    settings: Settings, folders: Folders, program: int, fd: int, *, allow_root_jobs: bool
) -> list[str]:
    """With the names that the folders have now: jobs see their work folders by name, and so must the executor."""
    jobs = settings.jobs
    command = [sys.executable, "-I", "-S", f"/proc/self/fd/{program}", "--fd", str(fd)]
    command += ["--isolate", jobs.isolation, "--work", folders.place("work")]
    for option, value in (
        ("--path", jobs.path),
        ("--user", jobs.user),
        ("--uids", jobs.uids),
        ("--processes", jobs.processes),
    ):
        if value is not None:
            command += [option, str(value)]
    for option, paths_of in (("--readable", jobs.readable), ("--writable", jobs.writable)):
        for path in paths_of:
            command += [option, str(path)]
    for key in SERVER_FOLDERS:
        command += ["--hide", folders.place(key)]
    for _, _, port in listeners(settings):
        command += ["--closed-port", str(port)]
    if allow_root_jobs:
        command += ["--allow-root-jobs"]
    return command


def _server_command(config_file: Path | None, folders: Folders, fd: int) -> list[str]:
    # -P: the working directory, which may be anybody's to write, is no place to import from.
    command = [sys.executable, "-P", "-m", "jobworker.server.cli", "server", "--executor-fd", str(fd), "--shared-ports"]
    command += ["--folder-fds", ",".join(f"{key}={held}" for key, held in folders.descriptors(*SERVER_FOLDERS).items())]
    if config_file is not None:
        command += ["--config", str(config_file), "--kept-config", str(folders.path("run") / KEPT_CONFIG)]
    return command

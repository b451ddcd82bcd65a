"""Wires the server: every part is made here, handed what it needs, started in this order and stopped in the reverse."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, closing
from functools import partial
from importlib.metadata import version
from pathlib import Path

# Before grpc is imported: it never forks here, and its fork handlers cost at each spawn of a thread.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from jobworker.server import datafolder, limits, listeners, ownlogs
from jobworker.server.clocks import now
from jobworker.server.config.live import LiveConfig
from jobworker.server.config.model import Settings
from jobworker.server.config.watch import FileWatch
from jobworker.server.control import Control
from jobworker.server.credentials import CredentialWatch, load
from jobworker.server.folders import FolderError, Folders
from jobworker.server.reach import StartError, inherited, listen
from jobworker.server.rpc import server as rpc
from jobworker.server.rpc.call import current_record
from jobworker.server.rpc.report import Report
from jobworker.server.rpc.retention import RetentionPlans
from jobworker.server.scheduling.accept import Acceptor
from jobworker.server.scheduling.drain import Drain
from jobworker.server.scheduling.local import LocalWorker
from jobworker.server.scheduling.scheduler import Scheduler
from jobworker.server.scheduling.startflags import StartFlagFiles
from jobworker.server.slices import Slices
from jobworker.server.store.batches import Batches
from jobworker.server.store.ends import read_ends
from jobworker.server.store.growth import Growth
from jobworker.server.store.layout import Layout
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.recovery import boot_id
from jobworker.server.store.retention import Retention
from jobworker.server.store.syncer import ThreadSyncer
from jobworker.server.store.uids import Uids, UidsError
from jobworker.server.telemetry import libraries
from jobworker.server.telemetry.joblines import JobLines
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.logging import Level, ServiceLog
from jobworker.server.telemetry.metrics import Metrics
from jobworker.server.telemetry.observe import Observers
from jobworker.server.telemetry.probes import Probes
from jobworker.server.telemetry.state import State
from jobworker.server.telemetry.traces import Traces, open_traces
from jobworker.server.threads import Loop, ThreadsError

# How long a thread that wants the interpreter's lock waits for a busy one. The thread of the commit log wants it twice
# for each commit: with Python's 5 ms some 400 batches of one job were taken a second, and so 430 to 700.
_SWITCH_SECONDS = 0.0005
_USUAL_FD = 3  # the first one that a supervisor can hand down
REST_CLOSE_SECONDS = 2.0  # for the last answers to go out, once no call is under way


def main(
    *,
    config_file: Path | None,
    kept_config: Path | None,
    executor_fd: int | None,
    folder_fds: Mapping[str, int] | None = None,
    shared_ports: bool = False,
) -> int:
    """Runs the server until SIGTERM or SIGINT; returns the exit status. SIGHUP has it read `config_file` again.

    `shared_ports`: whoever started it holds its ports (heldports.py).
    `folder_fds`: descriptors of its folders, by their keys in `paths`, which whoever started it holds; of others it
    holds its own. `kept_config`: see LiveConfig. `executor_fd`: the socket to the executor; None: as the key
    executor.socket says.

    Raises:
        ConfigError: there is no valid configuration.
        StartError: it could not start.
    """
    # Each running job that is followed holds a file, and each connection a socket.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(_SWITCH_SECONDS)
    with closing(Folders(folder_fds)) as folders:
        try:
            config = LiveConfig(
                file=config_file,
                environment=dict(os.environ),
                kept=kept_config,
                clock_ns=time.time_ns,
                hold=lambda paths: folders.hold_server(dict(paths)),
                shown=folders.shown,
            )
            listens = executor_fd is None and config.settings.executor.socket is not None
            link = None if listens else inherited(_USUAL_FD if executor_fd is None else executor_fd)
            with asyncio.Runner(loop_factory=Loop) as runner:
                return runner.run(_serve(config, folders, config_file, link, shared_ports=shared_ports))
        except (ThreadsError, FolderError, StartError, UidsError) as e:
            raise StartError(folders.shown(str(e))) from e


async def _serve(
    config: LiveConfig, folders: Folders, config_file: Path | None, link: socket.socket | None, *, shared_ports: bool
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    level = Level(config.settings.log_level)
    log = ownlogs.open_log(config.settings, folders, level)
    with closing(log.writer):
        async with AsyncExitStack() as parts:
            parts.callback(libraries.take_over(log.logger, loop))
            await _start(config, folders, link, parts, service_log=log, level=level, shared_ports=shared_ports)
            _follow_file(config, config_file, parts, log)
            await stop.wait()
            log.logger.info("stopping")
        log.logger.info("stopped")
    return 0


def _follow_file(config: LiveConfig, file: Path | None, parts: AsyncExitStack, log: ServiceLog) -> None:
    """From here on the configuration changes with its file. At SIGHUP it is read again, and the log opened anew."""

    def hang_up() -> None:
        log.writer.reopen()
        config.reload()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    # The supervisor starts us with it blocked: until now it would have ended this process.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    if file is not None:
        try:
            watch = FileWatch(file, changed=config.reload, loop=loop)
        except OSError as e:
            raise StartError(f"{file}: cannot be watched for changes: {e.strerror}") from e
        parts.callback(watch.close)
        config.reload()  # what changed while the service started


async def _start(  # noqa: PLR0915
    config: LiveConfig,
    folders: Folders,
    link: socket.socket | None,
    parts: AsyncExitStack,
    *,
    service_log: ServiceLog,
    level: Level,
    shared_ports: bool,
) -> None:
    """Makes and starts every part; `parts` stops them."""
    settings, started_ns, began_ns = config.settings, time.time_ns(), time.monotonic_ns()
    log: Log = service_log.logger
    tls, identity = load(
        folders.path("pki"),
        data=folders.path("data"),
        token_lifetime_seconds=settings.auth.token_lifetime_seconds,
        on_problem=lambda what: log.error("identity", problem=what),
    )
    parts.callback(identity.close)
    layout = Layout(folders.path("data"))
    parts.callback(os.close, datafolder.lock(layout))
    _begin_config(config, layout, log)
    metrics = Metrics(clock=time.time, monotonic=time.monotonic)
    parts.callback(metrics.close)
    audit = ownlogs.begin_audit(
        folders.path("logs"), config=config, identity=identity, metrics=metrics, log=log, parts=parts
    )
    slices = Slices()
    parts.callback(slices.close)
    credentials = CredentialWatch(
        tls=tls,
        identity=identity,
        denied=metrics.calls.denied,
        record=audit.changed,
        slices=slices,
        clock=time.time,
        shown=folders.shown,
        log=log,
    )
    threads = ThreadSyncer()
    parts.callback(threads.close)
    traces = _traces(config, layout, metrics, log)
    parts.push_async_callback(asyncio.to_thread, traces.close)
    job_lines = JobLines(log=log, is_debug=lambda: level.is_debug)
    boot = boot_id()
    batches = Batches(layout=layout, report=lambda path, what: log.error("damage", path=path, problem=what))
    parts.callback(batches.close)
    ledger = Ledger(layout=layout, batches=batches, boot=boot, log=log, timed=metrics.synced, clock=time.monotonic)
    parts.push_async_callback(ledger.close)
    retention = Retention(
        layout=layout,
        keep=limits.keep(settings),
        ledger=ledger,
        now=partial(now, boot),
        clock=time.monotonic,
        log=log,
    )
    parts.callback(retention.close)
    growth = Growth(
        batches=batches, ledger=ledger, syncer=threads, slices=slices, grown=retention.look, clock=time.monotonic
    )
    parts.push_async_callback(growth.close)
    observer = Observers(metrics.jobs, job_lines, traces, retention, growth)
    found = datafolder.recovered(layout, ledger, boot=boot, log=log)
    scheduler = Scheduler(
        batches=batches,
        ledger=ledger,
        settings=limits.run_settings(settings, traces),
        clock_ns=time.time_ns,
        log=log,
        observer=observer,
        slices=slices,
    )
    parts.push_async_callback(scheduler.close)
    scheduler.recover(found)
    drain = Drain(path=layout.stop_file, work=scheduler, unfinished=batches.unfinished, now=partial(now, boot), log=log)
    parts.callback(drain.close)
    scheduler.resumed = drain.again
    worker = LocalWorker(listener=scheduler, flags=StartFlagFiles(layout.data), uids=Uids(layout.uids_file), log=log)
    scheduler.use(worker)
    parts.callback(worker.close)
    if link is not None:
        worker.connect(link)
    else:
        admission = listen(
            settings.executor, folders.beneath, worker=worker, scheduler=scheduler, log=log, clock=time.monotonic
        )
        parts.push_async_callback(admission.leave)
    acceptor = Acceptor(
        layout=layout,
        batches=batches,
        ledger=ledger,
        syncer=threads,
        limits=limits.accept_limits(settings),
        clock_ns=time.time_ns,
        accepting=scheduler.begin,
        accepted=drain.submit,
        withdrawn=scheduler.withdraw,
        observer=observer,
        slices=slices,
        admit=drain.admit,
    )
    parts.callback(acceptor.close)
    server = rpc.build(
        identity=identity,
        batches=batches,
        acceptor=acceptor,
        scheduler=scheduler,
        tls=tls.material,
        host=settings.grpc.host,
        port=settings.grpc.port,
        limits=limits.stream_limits(settings),
        connection_limits=limits.connection_limits(settings, descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        admin=rpc.Administration(
            drain=drain,
            config=config,
            retention=RetentionPlans(
                keep=lambda values: limits.keep(config.preview(values)), retention=retention, slices=slices
            ),
            report=Report(
                version=version("jobworker"),
                started_ns=started_ns,
                uptime_ns=lambda: time.monotonic_ns() - began_ns,
                data=layout.data,
                data_name=str(settings.paths.data),
                certificates=tls.expiries,
                drain=drain,
                work=scheduler,
                unfinished=batches.unfinished,
                config=config,
                slices=slices,
                accounts=ledger.accounts,
                problems=lambda: [
                    *datafolder.problems(ledger, found, worker, audit.log),
                    *credentials.problems(),
                    *identity.problems_of_roles(),
                ],
            ),
        ),
        log=log,
        clock_ns=time.time_ns,
        observer=metrics.calls,
        traces=traces,
        clock_seconds=time.monotonic,
        slices=slices,
        audit=audit,
        max_message_bytes=settings.grpc.max_message_bytes,
        share_port=shared_ports,
    )

    def configure(settings: Settings) -> None:
        level.configure(settings.log_level)
        service_log.writer.configure(max_bytes=settings.logs.max_bytes, files=settings.logs.files)
        job_lines.configure(jobs_per_batch=settings.logs.jobs_per_batch)
        traces.configure(sample_ratio=settings.traces.sample_ratio, jobs_per_batch=settings.traces.jobs_per_batch)
        identity.configure(token_lifetime_seconds=settings.auth.token_lifetime_seconds, roles=settings.auth.roles)
        scheduler.configure(limits.run_settings(settings, traces))
        acceptor.configure(limits.accept_limits(settings))
        server.configure(limits.stream_limits(settings))
        retention.configure(limits.keep(settings))

    config.tell(configure)
    retention.begin()
    metrics.read(
        State(
            version=version("jobworker"),
            clock_ns=time.time_ns,
            drain=drain,
            work=scheduler,
            worker=worker,
            server=server,
            config=config,
            accounts=ledger.accounts,
            room=lambda: acceptor.quotas.limits.stored,
            removed=retention.removed,
            unfinished=batches.unfinished,
            role_of=identity.role_of,
            passwords=identity.passwords,
            volumes={"data": layout.data, "logs": str(folders.path("logs"))},
            certificates=tls.expiries,
            credentials=credentials,
        )
    )
    probes = Probes(
        checks={
            "grpc": lambda: server.serving,
            "executor": lambda: scheduler.connected,
            "storage": lambda: ledger.problem is None,
            "logins": lambda: not identity.passwords.overdue,
        },
        service=lambda: drain.phase.name.lower(),  # noqa: PLW0108  (the phase of then)
    )
    endpoint = listeners.endpoint(settings, metrics, probes, log, share_port=shared_ports)
    # First up and last down: whoever watches sees the start and the end as well.
    parts.push_async_callback(endpoint.stop)
    # It is stopped after the gRPC server, whose stop ends the calls of both.
    rest = listeners.rest(settings, server, tls.material, log, share_port=shared_ports)
    parts.push_async_callback(rest.stop, grace_seconds=REST_CLOSE_SECONDS)
    credentials.start(calls=server.calls, use=(server.use, rest.use))
    parts.push_async_callback(credentials.close)
    await listeners.start(settings, server, rest, endpoint, log)

    async def leave(seconds: float) -> int:
        drain.leave()
        await audit.log.append({"what": "server.drain", "seconds": seconds})
        await server.show()
        return await drain.left(seconds=seconds)

    control = Control(folder=folders.path("run"), drain=leave, log=log)
    await control.open()
    parts.push_async_callback(control.close)
    parts.push_async_callback(lambda: server.stop(grace_seconds=config.settings.grpc.drain_seconds))


def _begin_config(config: LiveConfig, layout: Layout, log: Log) -> None:
    if config.damaged:
        try:
            place = layout.set_aside(config.record_path)
        except OSError as e:
            raise StartError(f"{config.record_path}: is damaged, and cannot be set aside: {e.strerror}") from e
        log.error("what UpdateConfig had set cannot be read and was set aside", path=place)
    config.start(log)


def _traces(config: LiveConfig, layout: Layout, metrics: Metrics, log: Log) -> Traces:
    return open_traces(
        exporter=config.settings.traces.exporter,
        environment=config.environment,
        version=version("jobworker"),
        ends=lambda batch, most: read_ends(layout.finished(batch.user, batch.correlation_id), most),
        current_call=current_record,
        clock_ns=time.time_ns,
        count=metrics.spans,
        log=log,
    )

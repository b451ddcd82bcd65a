"""The gRPC server whole: services, layers and port, with their start and stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from jobworker.server.errors import UnavailableError
from jobworker.server.logs.budget import Budget
from jobworker.server.logs.logfile import LogFiles
from jobworker.server.logs.watch import Watch
from jobworker.server.rpc import channelz
from jobworker.server.rpc.admin import AdminServicer
from jobworker.server.rpc.auth import AuthServicer, Login
from jobworker.server.rpc.call import Calls
from jobworker.server.rpc.connections import ConnectionLimits, Connections
from jobworker.server.rpc.health import Health
from jobworker.server.rpc.interceptors import Audit, Authenticator, Layers
from jobworker.server.rpc.listener import MAX_REQUEST_BYTES, Listener
from jobworker.server.rpc.memory import MemoryTrim
from jobworker.server.rpc.query import QueryServicer
from jobworker.server.rpc.schedule import ScheduleServicer
from jobworker.server.rpc.shares import Shares, UserLimits
from jobworker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
    schedule_pb2,
    schedule_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobworker.server.rpc.admin import Config
    from jobworker.server.rpc.listener import Tls
    from jobworker.server.rpc.query import Find
    from jobworker.server.rpc.report import Report
    from jobworker.server.rpc.retention import RetentionPlans
    from jobworker.server.rpc.schedule import Accept, Cancel
    from jobworker.server.slices import Slices
    from jobworker.server.telemetry.calls import CallObserver
    from jobworker.server.telemetry.log import Log
    from jobworker.server.telemetry.traces import Traces

SERVICES: tuple[str, ...] = tuple(
    service.full_name
    for module in (auth_pb2, schedule_pb2, query_pb2, admin_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
_SCHEDULE: str = schedule_pb2.DESCRIPTOR.services_by_name["JobScheduleService"].full_name
_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# What clients are told at shutdown: a server that restarts is back in about that time.
_RETRY_SECONDS = 1.0
# For connections to close, once no call is under way.
_CLOSE_SECONDS = 1.0


class Identity(Authenticator, Login, Protocol):
    """Who calls, and who gets a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How long a client may take nothing before its stream is cut, what one user may have under way, and how many bytes
    are held for all until they are taken."""

    stall_seconds: float = 300.0
    user: UserLimits = field(default_factory=UserLimits)
    held_bytes: int = 128 << 20


class Drain(Protocol):
    """Whether the service takes work, and who changes that."""

    @property
    def serving(self) -> bool: ...

    def stop(self, *, deadline_seconds: float | None, cancel_queued: bool) -> None: ...

    def start(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Administration:
    """What AdminService works with."""

    drain: Drain
    config: Config
    retention: RetentionPlans
    report: Report


class RpcServer:
    """`start`, then `port`; `drain` and `stop`."""

    def __init__(
        self,
        *,
        listener: Listener,
        handlers: dict[str, Any],
        health: Health,
        calls: Calls,
        files: LogFiles,
        watch: Watch,
        methods: dict[str, Any],
        layers: Layers,
        query: QueryServicer,
        budget: Budget,
        connections: Connections,
        memory: MemoryTrim,
        show: Callable[[], Awaitable[None]],
    ) -> None:
        self.methods = methods  # by full name, as generated code has them: bare, for a transport that is not gRPC
        self.layers = layers  # ... to be put around them there too
        self.show = show  # has health tell whether work is taken
        self._listener = listener
        self._handlers = handlers
        self._health = health
        self._calls = calls
        self._files = files
        self._watch = watch
        self._query = query
        self._budget = budget
        self._connections = connections
        self._memory = memory
        self._closed = False
        self._listening = False

    @property
    def port(self) -> int:
        """The port in use."""
        return self._listener.port

    @property
    def open_logs(self) -> int:
        """How many logs are open for followers."""
        return len(self._files)

    @property
    def calls_under_way(self) -> int:
        """How many calls are being answered."""
        return len(self._calls)

    @property
    def calls(self) -> Calls:
        """The calls under way."""
        return self._calls

    @property
    def followers(self) -> int:
        """How many of them follow a log, or wait for a batch."""
        return self._calls.following

    @property
    def streamed_bytes(self) -> int:
        """Bytes of logs that followers were sent."""
        return self._files.sent_bytes

    @property
    def serving(self) -> bool:
        """It listens, and takes calls."""
        return self._listening and self._calls.closed_by is None

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            OSError: the address cannot be listened on; the message says why.
        """
        try:
            await self._listener.start(self._handlers)
        except OSError:
            self._close()
            raise
        await self._connections.open(self._listener.port)
        self._listening = True
        # "" too: whoever is told to stop still answers queries.
        for service in {"", *SERVICES} - {_SCHEDULE}:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self.show()

    def configure(self, limits: StreamLimits) -> None:
        """Takes other limits, for streams that begin from now on."""
        self._query.stall_seconds = limits.stall_seconds
        self._budget.configure(total_bytes=limits.held_bytes)
        self.layers.shares.configure(limits.user)

    def use(self, tls: Tls) -> None:
        """Another key, certificate or authority, for connections that come from now on."""
        self._listener.use(tls)

    async def drain(self) -> None:
        """Health says NOT_SERVING; calls that come now are answered UNAVAILABLE, streams and waits end with it; short
        calls go on."""
        await self._health.enter_graceful_shutdown()
        # One turn for the watchers of health to hear of it, before their streams are cut as well.
        await asyncio.sleep(0)
        self._calls.close(UnavailableError("the service stops", retry_after_seconds=_RETRY_SECONDS))

    async def stop(self, *, grace_seconds: float) -> None:
        """Drains, gives short calls `grace_seconds`, then closes everything; again, it does nothing."""
        await self.drain()
        await self._calls.settle(grace_seconds)
        await self._connections.close()
        await self._listener.stop(_CLOSE_SECONDS)
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._memory.close()
            self._watch.close()
            self._files.close()


def build(
    *,
    identity: Identity,
    batches: Find,
    acceptor: Accept,
    scheduler: Cancel,
    tls: Tls,
    host: str,
    port: int,
    limits: StreamLimits,
    connection_limits: ConnectionLimits,
    admin: Administration,
    log: Log,
    clock_ns: Callable[[], int],
    observer: CallObserver,
    traces: Traces,
    clock_seconds: Callable[[], float],
    slices: Slices,
    audit: Audit | None = None,
    max_message_bytes: int = MAX_REQUEST_BYTES,
    share_port: bool = False,
) -> RpcServer:
    """Wires the server; call it on the event loop that is to serve.

    `clock_ns` gives Unix nanoseconds, `clock_seconds` is monotonic."""
    loop = asyncio.get_running_loop()
    watch = Watch(loop=loop)
    files = LogFiles(watch=watch, slices=slices)
    calls = Calls()
    health = Health()
    budget = Budget(total_bytes=limits.held_bytes)
    memory = MemoryTrim(loop=loop)
    connections = Connections(limits=connection_limits, memory=memory, log=log, without_call=observer.left_without_call)
    layers = Layers(
        identity=identity,
        calls=calls,
        log=log,
        clock_seconds=clock_seconds,
        observer=observer,
        traces=traces,
        slices=slices,
        shares=Shares(limits.user, memory=memory),
        connections=connections,
        audit=audit,
    )
    wrapped: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    handlers: Any = _Handlers(layers, wrapped, methods)
    auth_pb2_grpc.add_AuthServiceServicer_to_server(AuthServicer(identity=identity), handlers)
    schedule_pb2_grpc.add_JobScheduleServiceServicer_to_server(
        ScheduleServicer(acceptor=acceptor, batches=batches, scheduler=scheduler, slices=slices), handlers
    )
    query = QueryServicer(
        batches=batches, files=files, stall_seconds=limits.stall_seconds, clock_ns=clock_ns, budget=budget
    )
    query_pb2_grpc.add_JobQueryServiceServicer_to_server(query, handlers)

    async def show() -> None:
        answers = health_pb2.HealthCheckResponse
        await health.set(_SCHEDULE, answers.SERVING if admin.drain.serving else answers.NOT_SERVING)

    admin_pb2_grpc.add_AdminServiceServicer_to_server(
        AdminServicer(
            status=lambda: admin.report(followers=calls.following),
            drain=admin.drain,
            config=admin.config,
            retention=admin.retention,
            show=show,
        ),
        handlers,
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, handlers)
    # Of the whole process, and not in the table of roles: for administrators.
    channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.ChannelzServicer(), handlers)
    names = (*SERVICES, _HEALTH, channelz.SERVICE.full_name, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), handlers)
    return RpcServer(
        listener=Listener(
            tls=tls,
            host=host,
            port=port,
            max_request_bytes=max_message_bytes,
            share_port=share_port,
            connections=connection_limits,
        ),
        handlers=wrapped,
        health=health,
        calls=calls,
        files=files,
        watch=watch,
        methods=methods,
        layers=layers,
        query=query,
        budget=budget,
        connections=connections,
        memory=memory,
        show=show,
    )


class _Handlers:
    """Takes the place of the server where generated code adds handlers, and wraps the layers around each."""

    def __init__(self, layers: Layers, wrapped: dict[str, Any], methods: dict[str, Any]) -> None:
        self._layers = layers
        self._wrapped = wrapped
        self._methods = methods

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._methods[method] = handler
            self._wrapped[method] = self._layers.wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers again, unnamed."""

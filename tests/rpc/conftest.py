"""The gRPC server over real TLS, with the real identity, store and scheduler, and no executor: jobs stay queued, or are
run by hand (tests/logs/livebatch.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2

from jobpki.bundle import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from jobworker.server.clocks import now
from jobworker.server.config.live import LiveConfig
from jobworker.server.identity.gate import Identity
from jobworker.server.identity.tls import load_tls
from jobworker.server.rpc.connections import ConnectionLimits
from jobworker.server.rpc.report import Report
from jobworker.server.rpc.retention import RetentionPlans
from jobworker.server.rpc.server import Administration, RpcServer, StreamLimits, build
from jobworker.server.scheduling.accept import Acceptor
from jobworker.server.scheduling.drain import Drain
from jobworker.server.scheduling.quotas import AcceptLimits
from jobworker.server.scheduling.scheduler import RunSettings, Scheduler
from jobworker.server.slices import Slices
from jobworker.server.store.batches import Batches
from jobworker.server.store.layout import Layout
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.plan import Keep
from jobworker.server.store.retention import Retention
from jobworker.server.store.syncer import ThreadSyncer
from jobworker.server.telemetry.calls import CallObserver
from jobworker.server.telemetry.observe import Observer
from jobworker.server.telemetry.sampling import Sampler
from jobworker.server.telemetry.traces import Traces
from jobworker.v1 import auth_pb2, auth_pb2_grpc, query_pb2_grpc, schedule_pb2_grpc
from tests.harness.ledger import begin_ledger, make_ledger
from tests.harness.pki import Pki, make_pki
from tests.logs.livebatch import LiveBatch

DEADLINE_SECONDS = 30.0
STALL_SECONDS = 1.0


@dataclass
class Lines:
    """The service's log."""

    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def info(self, event: str, /, **fields: object) -> None:
        self.lines.append((event, fields))

    debug = warning = error = info

    def of(self, event: str) -> list[dict[str, object]]:
        """The lines of one kind."""
        return [fields for kind, fields in self.lines if kind == event]


class Client:
    """A user's channel and stubs; `login` first, for all but health."""

    def __init__(self, pki: Pki, user: str, port: int) -> None:
        bundle = pki.client(user)
        self.channel = grpc.aio.secure_channel(
            f"localhost:{port}",
            grpc.ssl_channel_credentials(
                (bundle / CA_FILE).read_bytes(),
                (bundle / KEY_FILE).read_bytes(),
                (bundle / CERTIFICATE_FILE).read_bytes(),
            ),
        )
        self.user = user
        self.password = pki.passwords[user]
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.auth = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.schedule = schedule_pb2_grpc.JobScheduleServiceStub(self.channel)
        self.query = query_pb2_grpc.JobQueryServiceStub(self.channel)

    async def login(self) -> auth_pb2.LoginResponse:
        """Gets a token, which `metadata` then carries."""
        request = auth_pb2.LoginRequest(username=self.user, password=self.password)
        response = await cast(Any, self.auth.Login(request))
        self.metadata = (("authorization", f"Bearer {response.access_token}"),)
        return cast(auth_pb2.LoginResponse, response)

    def call(self, method: Any, request: Any, **extra: str) -> Any:
        """A call with the token; `extra` metadata by name, with `_` for `-`."""
        more = tuple((name.replace("_", "-"), value) for name, value in extra.items())
        return method(request, metadata=self.metadata + more, timeout=DEADLINE_SECONDS)


@dataclass
class Served:
    """The server with its parts."""

    root: Path
    pki: Pki
    server: RpcServer
    batches: Batches
    layout: Layout
    log: Lines
    clients: list[Client] = field(default_factory=list)

    async def client(self, user: str = "alice") -> Client:
        """A user who is logged in."""
        client = self.bare_client(user)
        await client.login()
        return client

    def bare_client(self, user: str = "alice") -> Client:
        """A user who is not."""
        self.clients.append(Client(self.pki, user, self.server.port))
        return self.clients[-1]

    def batch(self, jobs: int, **more: Any) -> LiveBatch:
        """A batch to be run by hand."""
        batch = LiveBatch(self.root / "live", jobs, **more)
        self.batches.active[batch.header.correlation_id] = cast(Any, batch)
        return batch

    def leftovers(self) -> list[Path]:
        """Batches on disk that are not, or not yet, accepted."""
        return [path for path in Path(self.layout.active_root).iterdir() if path.name not in self.batches.active]


def make_server(root: Path, pki: Pki, *, port: int = 0) -> Served:
    """Builds it; `server.start()` is the caller's."""
    tls = load_tls(pki.root, now=datetime.now(UTC))
    log = Lines()
    identity = Identity(
        pki=pki.root,
        logged_out=pki.root / "logged-out.json",
        trust_domain=tls.trust_domain,
        token_lifetime_seconds=3600,
        clock=time.time,
        monotonic=time.monotonic,
        on_problem=lambda problem: log.error("users", problem=problem),
    )
    slices = Slices()
    layout = Layout(root / "data")
    layout.prepare()
    batches = Batches(layout=layout, report=lambda path, problem: log.error("damage", path=path, problem=problem))
    ledger = make_ledger(layout, batches, log)
    begin_ledger(ledger, layout)
    scheduler = Scheduler(
        batches=batches,
        ledger=ledger,
        settings=RunSettings(running_jobs=4, timeout_seconds=None, grace_seconds=1, linger_seconds=1, log_bytes=None),
        clock_ns=time.time_ns,
        log=log,
        observer=Observer(),
        slices=slices,
    )
    acceptor = Acceptor(
        layout=layout,
        batches=batches,
        ledger=ledger,
        syncer=ThreadSyncer(),
        limits=AcceptLimits(
            batch_jobs=1000,
            user_unfinished_jobs=10_000,
            user_unfinished_batches=1000,
            free_disk_bytes=0,
            default_parallelism=4,
        ),
        clock_ns=time.time_ns,
        accepting=scheduler.begin,
        accepted=scheduler.submit,
        withdrawn=scheduler.withdraw,
        observer=Observer(),
        slices=slices,
    )
    server = build(
        identity=identity,
        batches=batches,
        acceptor=acceptor,
        scheduler=scheduler,
        tls=tls,
        host="localhost",
        port=port,
        limits=StreamLimits(stall_seconds=STALL_SECONDS),
        connection_limits=ConnectionLimits(),
        admin=_administration(layout, scheduler, batches, ledger, log, slices),
        log=log,
        clock_ns=time.time_ns,
        traces=Traces(Sampler({})),
        observer=CallObserver(),
        clock_seconds=time.monotonic,
        slices=slices,
    )
    return Served(root=root, pki=pki, server=server, batches=batches, layout=layout, log=log)


def _administration(
    layout: Layout, scheduler: Scheduler, batches: Batches, ledger: Ledger, log: Lines, slices: Slices
) -> Administration:
    drain = Drain(
        path=layout.stop_file, work=scheduler, unfinished=batches.unfinished, now=partial(now, "boot"), log=log
    )
    config = LiveConfig(file=None, environment={"JOBWORKER_PATHS__DATA": layout.data}, clock_ns=time.time_ns)
    report = Report(
        version="0",
        started_ns=time.time_ns(),
        uptime_ns=time.monotonic_ns,
        data=layout.data,
        data_name=layout.data,
        certificates=[],
        drain=drain,
        work=scheduler,
        unfinished=batches.unfinished,
        config=config,
        slices=slices,
        accounts=ledger.accounts,
    )
    retention = Retention(
        layout=layout, keep=Keep(), ledger=ledger, now=partial(now, "boot"), clock=time.monotonic, log=log
    )
    plans = RetentionPlans(keep=lambda _: Keep(), retention=retention, slices=slices)
    return Administration(drain=drain, config=config, retention=plans, report=report)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """One for all."""
    return make_pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
async def served(tmp_path: Path, pki: Pki) -> AsyncIterator[Served]:
    """A server that serves."""
    served = make_server(tmp_path, pki)
    await served.server.start()
    yield served
    for client in served.clients:
        await client.channel.close()
    await served.server.stop(grace_seconds=5)


async def error_of(call: Any) -> status_pb2.Status:
    """The google.rpc.Status that a call, unary or a stream, ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (rest_of(call) if hasattr(call, "__aiter__") else call)
    trailers = dict(refused.value.trailing_metadata() or ())
    if "grpc-status-details-bin" in trailers:
        status = status_pb2.Status.FromString(cast(bytes, trailers["grpc-status-details-bin"]))
        assert status.code == refused.value.code().value[0]
        return status
    return status_pb2.Status(code=refused.value.code().value[0], message=refused.value.details() or "")


async def rest_of(stream: Any) -> list[Any]:
    """What a stream still has, to its end."""
    rest = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        rest.append(message)
    return rest


def detail(status: status_pb2.Status, kind: type[Message]) -> Any:
    """The detail of one kind."""
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {status}")


async def until(condition: Any, what: str) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what

"""Batches of one job: how many a second, how long each takes, and what each costs, beside the service's health check,
which passes the same layers and does nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobworker.server.store.layout import Layout
from jobworker.v1 import query_pb2, schedule_pb2
from tests.bench.caller import Caller
from tests.bench.process import Spent
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.service import Service
from tests.harness.wait import until

HEALTH = "/grpc.health.v1.Health/Check"
EXECUTE = "/jobworker.v1.JobScheduleService/ExecuteJob"
WAIT = "/jobworker.v1.JobQueryService/WaitBatch"
IN_FLIGHT = 64
ROUNDS = 3
BLOCK = 20
JOB = schedule_pb2.JobRequest(argv=["/bin/true"])


@dataclass
class Side:
    """One kind of call, over all rounds."""

    rates: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)  # of CPU, a call
    executor_ms: list[float] = field(default_factory=list)
    client_us: list[float] = field(default_factory=list)
    client_share: list[float] = field(default_factory=list)  # of one processor

    @property
    def client(self) -> str:
        """What the client took."""
        return (
            f"the client took {statistics.median(self.client_us):.0f} us of CPU a call, "
            f"{statistics.median(self.client_share):.0%} of a processor"
        )


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    with run.service() as service:
        api = service.api("alice")
        with Caller(service, api.token) as caller:
            yield from _together(run, service, caller)
            yield from _one_by_one(run, service, caller)
    yield from _among_many(run)


def _together(run: Run, service: Service, caller: Caller) -> Iterator[Row]:
    """Many in flight."""
    calls = {HEALTH: run.size(5000, 500), EXECUTE: run.size(1500, 150)}
    requests = {HEALTH: b"", EXECUTE: JOB.SerializeToString()}
    sides = {HEALTH: Side(), EXECUTE: Side()}
    for method, request in requests.items():
        _load(service, caller, method, request, IN_FLIGHT * 2, Side())
    for n in range(run.size(ROUNDS, 1)):
        for method in (HEALTH, EXECUTE) if n % 2 == 0 else (EXECUTE, HEALTH):
            _load(service, caller, method, requests[method], calls[method], sides[method])
        run.say(f"a second: health check {sides[HEALTH].rates[-1]:.0f}, ExecuteJob {sides[EXECUTE].rates[-1]:.0f}")
    health, execute = sides[HEALTH], sides[EXECUTE]
    yield Row(
        f"unary ExecuteJob, {IN_FLIGHT} in flight",
        statistics.median(execute.rates),
        "/s",
        statistics.median(health.rates),
        "health check",
        Goal(">=", 0.35),
        f"ExecuteJob: {execute.client}; health check: {health.client}",
    )
    yield Row(
        "server CPU per one-job batch",
        statistics.median(execute.server_ms),
        "ms",
        statistics.median(health.server_ms),
        "health check",
        Goal("<=", 1.2, absolute=True),
        "until the last one's folder lies with the finished ones",
    )
    yield Row("executor CPU per one-job batch", statistics.median(execute.executor_ms), "ms")


def _load(service: Service, caller: Caller, method: str, request: bytes, calls: int, side: Side) -> None:
    stored = _stored(service)
    before, client = Spent.now(service), caller.cpu_seconds
    answered = sum(1 for _ in caller.many(method, (request for _ in range(calls)), in_flight=IN_FLIGHT))
    seconds = time.perf_counter() - before.at
    assert answered == calls
    if method == EXECUTE:
        # The service is not asked: its answers would be counted.
        until(lambda: _stored(service) == stored + calls, "each batch is final", seconds=120)
    spent, client = Spent.now(service).since(before), caller.cpu_seconds - client
    side.rates.append(calls / seconds)
    side.server_ms.append(spent.server * 1e3 / calls)
    side.executor_ms.append(spent.executor * 1e3 / calls)
    side.client_us.append(client * 1e6 / calls)
    side.client_share.append(client / seconds)


def _stored(service: Service) -> int:
    """How many finished batches there are."""
    return sum(1 for _ in Layout(service.data).finished_folders())


def _among_many(run: Run) -> Iterator[Row]:
    """Cost is flat: with very many unfinished batches before it, a batch is accepted as with none."""
    batches, step = run.size(5000, 100), run.size(500, 50)
    with run.service("queued", JOBS__RUNNING="1", JOBS__PARALLELISM="1") as service:
        api = service.api("alice")
        api.submit("exec sleep 3600")
        with Caller(service, api.token) as caller:
            spent: list[float] = []
            for _ in range(batches // step + 1):
                before = Spent.now(service)
                for _ in caller.many(EXECUTE, (JOB.SerializeToString() for _ in range(step)), in_flight=IN_FLIGHT):
                    pass
                spent.append(Spent.now(service).since(before).server * 1e3 / step)
    name = f"server CPU to accept a batch after {batches} unfinished ones"
    yield Row(name, spent[-1], "ms", spent[0], "after none", Goal("<=", 1.2))


def _one_by_one(run: Run, service: Service, caller: Caller) -> Iterator[Row]:
    """One in flight: by gRPC's own client, as programs in Python have it, and by the bare one."""
    api = service.api("alice")
    health = health_pb2_grpc.HealthStub(api.channel)
    job = JOB.SerializeToString()
    rounds = run.size(15, 1)

    def bare_execute() -> str:
        return schedule_pb2.JobResponse.FromString(caller.one(EXECUTE, job)).correlation_id

    def bare_wait(correlation_id: str) -> None:
        caller.one(WAIT, query_pb2.WaitBatchRequest(correlation_id=correlation_id).SerializeToString())

    def stock_execute() -> str:
        answer: schedule_pb2.JobResponse = api.schedule.ExecuteJob(JOB, **api.call())
        return answer.correlation_id

    stock = _in_turn(
        rounds, lambda: health.Check(health_pb2.HealthCheckRequest(), **api.call()), stock_execute, api.wait
    )
    bare = _in_turn(rounds, lambda: caller.one(HEALTH, b""), bare_execute, bare_wait)
    for client, is_stock, (check, execute, final) in (("gRPC's client", True, stock), ("bare client", False, bare)):
        goal = Goal("<=", 2) if is_stock else None
        yield Row(f"unary ExecuteJob p50, {client}", execute, "ms", check, "health check", goal)
        goal = Goal("<=", 6) if is_stock else None
        yield Row(f"`true`, submit to final seen by WaitBatch p50, {client}", final, "ms", check, "health check", goal)


def _in_turn(
    rounds: int, check: Callable[[], object], execute: Callable[[], str], wait: Callable[[str], object]
) -> tuple[float, float, float]:
    """Medians in milliseconds of a check, of a submission, and of one until it is final: some of each in turn, so that
    all have the same weather."""
    checks, submissions, wholes = [], [], []
    for _ in range(rounds):
        for _ in range(BLOCK):
            began = time.perf_counter()
            check()
            checks.append(time.perf_counter() - began)
        for _ in range(BLOCK):
            began = time.perf_counter()
            correlation_id = execute()
            submissions.append(time.perf_counter() - began)
            wait(correlation_id)
            wholes.append(time.perf_counter() - began)
    check_ms, submission_ms, whole_ms = (statistics.median(t) * 1e3 for t in (checks, submissions, wholes))
    return check_ms, submission_ms, whole_ms

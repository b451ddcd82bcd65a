"""How long a call about another's batch takes to be refused, beside one about a batch that never existed: nobody is to
tell them apart by that."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

from jobworker.client.ids import new_correlation_id
from jobworker.v1 import query_pb2, schedule_pb2
from tests.bench.caller import Caller, CallFailedError
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.wait import until

ASKS = {
    "/jobworker.v1.JobQueryService/GetBatch": query_pb2.GetBatchRequest,
    "/jobworker.v1.JobQueryService/WaitBatch": query_pb2.WaitBatchRequest,
    "/jobworker.v1.JobQueryService/SearchJob": query_pb2.SearchJobRequest,
    "/jobworker.v1.JobQueryService/StreamLogs": query_pb2.StreamLogsRequest,
    "/jobworker.v1.JobScheduleService/CancelBatch": schedule_pb2.CancelBatchRequest,
}


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    with run.service() as service:
        alice = service.api("alice")
        batches = {"running": alice.submit("exec sleep 3600"), "finished": alice.submit("true")}
        alice.wait(batches["finished"])
        until(lambda: alice.get(batches["running"]).counts.running, "the job runs")
        with Caller(service, service.api("bob").token, user="bob") as caller:
            for state, batch in batches.items():
                # Of the same moment, by which a finished batch is looked for.
                never = batch[:14] + new_correlation_id(0)[14:]
                for method, ask in ASKS.items():
                    requests = [ask(correlation_id=name).SerializeToString() for name in (batch, never)]
                    yield _row(method, state, _seconds(caller, method, requests, run.size(1500, 100)))


def _row(method: str, state: str, seconds: list[list[float]]) -> Row:
    others, never = (statistics.median(times) * 1e6 for times in seconds)
    low, _, high = statistics.quantiles([time * 1e6 for time in seconds[1]], n=4)
    return Row(
        f"{method.rpartition('/')[2]} of another's {state} batch and of none, difference of the medians",
        abs(others - never),
        "us",
        high - low,
        "half of the answers lie within",
        Goal("<=", 0.1),
        f"another's {others:.1f} us, none {never:.1f} us",
    )


def _seconds(caller: Caller, method: str, requests: list[bytes], calls: int) -> list[list[float]]:
    """Of each request, in turns that begin with the one as often as with the other."""
    seconds: list[list[float]] = [[], []]
    for turn in range(calls + 50):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            with contextlib.suppress(CallFailedError):
                caller.one(method, requests[which])
                raise AssertionError(f"{method} was not refused")
            if turn >= 50:  # those before warm it up
                seconds[which].append(time.perf_counter() - began)
    return seconds

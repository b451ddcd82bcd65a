"""What the load's clients have in common: a channel that comes back quickly, and a note of each call's answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from jobworker.v1 import job_pb2, query_pb2
from tests.faults.history import Batch, History, JobState, Shown
from tests.harness.service import Api, Service

CALL_SECONDS = 20.0
# The channel's own pauses grow to two minutes: a load that waits so long meets no fault.
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 300)]


def connect(service: Service, user: str = "alice", *, port: int | None = None) -> Api:
    """A client with a channel of its own, logged in."""
    own = [*_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    api = Api(port or service.port, service.pki / "clients" / user, own)
    api.login(user, service.passwords[user])
    return api


def job_state(job: Any) -> JobState:
    """Of a Job or a LogEnd."""
    which = job.WhichOneof("outcome")
    return JobState(
        state=job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_"),
        reason=job_pb2.EndReason.Name(job.end_reason).removeprefix("END_REASON_"),
        outcome=(which, getattr(job, which)) if which else None,
        detail=getattr(job, "end_detail", ""),
    )


def status(error: grpc.RpcError) -> str:
    """Its code's name."""
    return str(error.code().name)


class Asker:
    """Asks about batches, and notes what is told, and when."""

    def __init__(self, api: Api, history: History) -> None:
        self._api = api
        self._history = history

    def batch(self, batch: Batch, seconds: float = CALL_SECONDS) -> job_pb2.Batch | None:
        """GetBatch; None: no answer."""
        request = query_pb2.GetBatchRequest(correlation_id=batch.correlation_id)
        return self._call(batch, self._api.query.GetBatch, request, seconds)

    def wait(self, batch: Batch, seconds: float = CALL_SECONDS) -> job_pb2.Batch | None:
        """WaitBatch; None: no answer, or not final."""
        request = query_pb2.WaitBatchRequest(correlation_id=batch.correlation_id)
        return self._call(batch, self._api.query.WaitBatch, request, seconds)

    def _call(self, batch: Batch, call: Any, request: Message, seconds: float) -> job_pb2.Batch | None:
        began = time.monotonic()
        try:
            answer: job_pb2.Batch = call(request, **self._api.call(timeout=seconds))
        except grpc.RpcError as error:
            self._failed(batch, type(request).__name__.removesuffix("Request"), error, began)
            return None
        self.saw(batch, answer, began, type(request).__name__.removesuffix("Request"))
        return answer

    def saw(self, batch: Batch, answer: job_pb2.Batch, began: float, by: str) -> None:
        """Notes what a call told of a batch."""
        now = time.monotonic()
        state = job_pb2.BatchState.Name(answer.state).removeprefix("BATCH_STATE_")
        counts = tuple((name.name, value) for name, value in answer.counts.ListFields())
        self._history.show(
            Shown(batch.tag, began, now, by, batch_state=state, counts=counts or (("queued", 0),)),
        )
        if answer.state > job_pb2.BATCH_STATE_RUNNING and batch.final_at is None:
            batch.final_at = now

    def jobs(self, batch: Batch, seconds: float = CALL_SECONDS) -> bool:
        """SearchJob of the whole batch, without logs, as it is now; whether it answered."""
        began = time.monotonic()
        request = query_pb2.SearchJobRequest(correlation_id=batch.correlation_id, omit_log=True, snapshot=True)
        shown = []
        try:
            for answer in self._api.query.SearchJob(request, **self._api.call(timeout=seconds)):
                job, now = answer.job, time.monotonic()
                shown.append(Shown(batch.tag, began, now, "SearchJob", index=job.index, job=job_state(job)))
        except grpc.RpcError as error:
            self._failed(batch, "SearchJob", error, began)
            return False
        finally:
            self._history.show(*shown)
        return True

    def listed(self, seconds: float = CALL_SECONDS) -> Iterator[job_pb2.Batch]:
        """Every batch that the service lists.

        Raises:
            grpc.RpcError: it does not answer.
        """
        token = ""
        while True:
            request = query_pb2.ListBatchesRequest(page_size=1000, page_token=token)
            answer = self._api.query.ListBatches(request, **self._api.call(timeout=seconds))
            yield from answer.batches
            token = answer.next_page_token
            if not token:
                return

    def _failed(self, batch: Batch, by: str, error: grpc.RpcError, began: float) -> None:
        self._history.failed(by, status(error))
        if error.code() is grpc.StatusCode.NOT_FOUND:
            self._history.show(Shown(batch.tag, began, time.monotonic(), by, gone=True))

"""A follower of all logs of a batch, that goes on where it was when its stream is cut. It uses no SDK: what comes is
noted as it comes."""

from __future__ import annotations

import threading
import time

import grpc

from jobworker.v1 import query_pb2
from tests.faults.clients import job_state, status
from tests.faults.history import Batch, Follow, History, Log
from tests.harness.service import Api

_PAUSE_SECONDS = 0.1
_STREAM_SECONDS = 60.0  # of one call; then it is asked for again
# What says that the service is away, or not able just now.
_PASSES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


class Follower:
    """Reads until each log had its end, or `stop`."""

    def __init__(self, api: Api, history: History, batch: Batch, *, slow: bool = False) -> None:
        """`slow`: it takes its time over each piece."""
        self._api = api
        self._history = history
        self._batch = batch
        self._slow = slow
        self._stopped = threading.Event()
        self._call: grpc.Call | None = None
        self.follow = self._begin()

    def _begin(self) -> Follow:
        follow = Follow(self._batch.tag, time.monotonic())
        with self._history.lock:
            self._history.follows.append(follow)
        return follow

    def run(self) -> None:
        """To its end."""
        while not (self.follow.done or self.follow.ended_early or self._stopped.is_set()):
            self._stream()
            # Also where the stream was cut right behind the last end: no jobs in a request would be all of them.
            self.follow.done = all(self._has_end(index) for index in range(len(self._batch.jobs)))
            self._stopped.wait(_PAUSE_SECONDS)

    def give_up(self) -> None:
        """It had time enough: the follower hangs."""
        self.follow.hung = not (self.follow.done or self.follow.ended_early)
        self.stop()

    def stop(self) -> None:
        """From another thread."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def _stream(self) -> None:
        try:
            self._call = self._api.query.StreamLogs(self._request(), **self._api.call(timeout=_STREAM_SECONDS))
            for chunk in self._call:
                take(self.follow.logs.setdefault(chunk.job_index, Log()), chunk)
                if self._slow:
                    self._stopped.wait(0.005)
        except grpc.RpcError as error:
            self._history.failed("StreamLogs", status(error))
            if error.code() in _PASSES or self._stopped.is_set():
                return
            if error.code() is grpc.StatusCode.OUT_OF_RANGE and self._history.machine_died_since(self.follow.began):
                self.follow.rewound = True
                self.follow = self._begin()
                return
            self.follow.ended_early = f"{status(error)}: {error.details()}"
            return
        except ValueError:  # gRPC's, of a call on a channel that was closed
            if not self._stopped.is_set():
                raise
            return
        if not all(self._has_end(index) for index in range(len(self._batch.jobs))) and not self._stopped.is_set():
            self.follow.ended_early = "the stream ended well, and not every log had its end"

    def _request(self) -> query_pb2.StreamLogsRequest:
        request = query_pb2.StreamLogsRequest(correlation_id=self._batch.correlation_id)
        if self.follow.logs:
            request.job_index.extend(i for i in range(len(self._batch.jobs)) if not self._has_end(i))
            for index, log in self.follow.logs.items():
                if log.total is None and log.offset:
                    request.cursors.add(job_index=index, offset=log.offset)
        return request

    def _has_end(self, index: int) -> bool:
        log = self.follow.logs.get(index)
        return log is not None and log.total is not None


def take(log: Log, chunk: query_pb2.LogChunk) -> None:
    """Adds a piece of a log as it came."""
    match chunk.WhichOneof("payload"):
        case "data":
            log.take(chunk.offset, len(chunk.data))
            log.pieces.append((chunk.offset, chunk.data))
        case "gap":
            log.take(chunk.offset, chunk.gap.length)
            log.gaps.append((chunk.offset, chunk.gap.length))
        case "end":
            if log.total is not None:
                log.faults.append("a second end")
            log.total = chunk.end.total_bytes
            log.end = job_state(chunk.end)

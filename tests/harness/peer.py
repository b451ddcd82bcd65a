# ruff: noqa: N802 - gRPC names the methods
"""A small service of its own, over real mutual TLS, that misbehaves as it is told: what a client must bear.

It holds finished logs in memory and knows a user, a password and batches by name. The real one is `harness.service`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from jobworker.v1 import auth_pb2, auth_pb2_grpc, job_pb2, query_pb2, query_pb2_grpc, schedule_pb2, schedule_pb2_grpc

PASSWORD = "correct horse"
Log = tuple[int, int]  # job, stream


@dataclass(frozen=True)
class Abort:
    """Ends the call with a status and its google.rpc details."""

    code: grpc.StatusCode
    message: str = "as told"
    details: tuple[Message, ...] = ()

    async def on(self, context: grpc.aio.ServicerContext) -> None:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        pairs = (("grpc-status-details-bin", status.SerializeToString()),) if self.details else ()
        await context.abort(self.code, self.message, pairs)


def error_info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="jobworker")


def retry_after(seconds: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    )


# One answer to StreamLogs: pieces, and an Abort where it is to break off.
Send = Callable[[query_pb2.StreamLogsRequest], AsyncIterator[query_pb2.LogChunk | Abort]]


@dataclass
class Peer(
    auth_pb2_grpc.AuthServiceServicer,
    schedule_pb2_grpc.JobScheduleServiceServicer,
    query_pb2_grpc.JobQueryServiceServicer,
):
    """`async with` serves it. `script` answers the StreamLogs calls in turn; after that it sends `logs` whole."""

    pki: Path
    logs: dict[Log, bytes] = field(default_factory=dict)
    script: list[Send] = field(default_factory=list)
    refusals: list[Abort | None] = field(default_factory=list)  # of unary calls and streams, in turn
    login_refusals: list[Abort] = field(default_factory=list)
    token_seconds: int = 3600
    tokens: int = 0  # given so far; only the newest is taken
    requests: list[query_pb2.StreamLogsRequest] = field(default_factory=list)
    accepted: dict[str, list[bytes]] = field(default_factory=dict)
    certificates: list[bytes] = field(default_factory=list)  # that each call came with
    jobs: int = 0  # that SearchJob tells
    search_cuts: list[tuple[int, Abort]] = field(default_factory=list)  # before which job, and how, a call in turn
    running: int = 0  # so many more times a batch is told to be running
    submits: int = 0
    lose_answers: int = 0  # of submits: accepted, and the answer lost
    refuse_after_jobs: int | None = None
    address: str = ""
    port: int = 0

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        auth_pb2_grpc.add_AuthServiceServicer_to_server(self, self._server)
        schedule_pb2_grpc.add_JobScheduleServiceServicer_to_server(self, self._server)
        query_pb2_grpc.add_JobQueryServiceServicer_to_server(self, self._server)
        folder = self.pki / "server"
        credentials = grpc.ssl_server_credentials(
            [((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())],
            root_certificates=(folder / "ca.crt").read_bytes(),
            require_client_auth=True,
        )
        self.port = self._server.add_secure_port(f"localhost:{self.port}", credentials)
        self.address = f"localhost:{self.port}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def _let_in(self, context: grpc.aio.ServicerContext) -> None:
        self.certificates += context.auth_context()["x509_pem_cert"]
        if self.refusals and (refusal := self.refusals.pop(0)) is not None:
            await refusal.on(context)
        if self.tokens and dict(context.invocation_metadata() or ()).get("authorization") != f"Bearer t{self.tokens}":
            reason = (
                "TOKEN_EXPIRED" if "authorization" in dict(context.invocation_metadata() or ()) else "TOKEN_MISSING"
            )
            await Abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired", (error_info(reason),)).on(context)

    async def Login(self, request: auth_pb2.LoginRequest, context: grpc.aio.ServicerContext) -> auth_pb2.LoginResponse:
        if request.password != PASSWORD:
            info = error_info("LOGIN_FAILED")
            await Abort(grpc.StatusCode.UNAUTHENTICATED, "user or password does not match", (info,)).on(context)
        if self.tokens and self.login_refusals:
            await self.login_refusals.pop(0).on(context)
        self.tokens += 1
        response = auth_pb2.LoginResponse(access_token=f"t{self.tokens}")
        now = int(time.time())
        response.server_time.FromSeconds(now)
        response.expires_at.FromSeconds(now + self.token_seconds)
        return response

    async def ExecuteJob(
        self, request: schedule_pb2.JobRequest, context: grpc.aio.ServicerContext
    ) -> schedule_pb2.JobResponse:
        await self._let_in(context)
        return await self._accept([request.SerializeToString(deterministic=True)], context)

    async def ExecuteJobs(
        self, requests: AsyncIterator[schedule_pb2.JobRequest], context: grpc.aio.ServicerContext
    ) -> schedule_pb2.JobResponse:
        jobs: list[bytes] = []
        await self._let_in(context)
        async for request in requests:
            packed = list(request.jobs) or [request]
            if request.jobs and request.HasField("batch"):
                packed[0].batch.CopyFrom(request.batch)
            jobs += [job.SerializeToString(deterministic=True) for job in packed]
            if self.refuse_after_jobs is not None and len(jobs) > self.refuse_after_jobs:
                bad = error_details_pb2.BadRequest()
                bad.field_violations.add(field=f"jobs[{self.refuse_after_jobs}].command", description="is empty")
                await Abort(grpc.StatusCode.INVALID_ARGUMENT, "jobs are wrong", (bad,)).on(context)
        return await self._accept(jobs, context)

    async def _accept(self, jobs: list[bytes], context: grpc.aio.ServicerContext) -> schedule_pb2.JobResponse:
        name = dict(context.invocation_metadata() or ())["x-correlation-id"]
        self.submits += 1
        known = self.accepted.setdefault(str(name), jobs)
        if self.lose_answers:
            self.lose_answers -= 1
            await Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed").on(context)
        if known != jobs:
            await Abort(grpc.StatusCode.ALREADY_EXISTS, "the name is taken").on(context)
        result = "ACCEPTED" if known is jobs else "DUPLICATE"
        return schedule_pb2.JobResponse(correlation_id=name, result=result, job_count=len(jobs))

    async def GetBatch(self, request: query_pb2.GetBatchRequest, context: grpc.aio.ServicerContext) -> job_pb2.Batch:
        await self._let_in(context)
        self.running -= 1
        return job_pb2.Batch(
            correlation_id=request.correlation_id,
            job_count=len({job for job, _ in self.logs}),
            state=job_pb2.BATCH_STATE_SUCCEEDED if self.running < 0 else job_pb2.BATCH_STATE_RUNNING,
        )

    async def WaitBatch(self, request: query_pb2.WaitBatchRequest, context: grpc.aio.ServicerContext) -> job_pb2.Batch:
        return await self.GetBatch(query_pb2.GetBatchRequest(correlation_id=request.correlation_id), context)

    async def ListBatches(
        self, request: query_pb2.ListBatchesRequest, context: grpc.aio.ServicerContext
    ) -> query_pb2.ListBatchesResponse:
        await self._let_in(context)
        page = int(request.page_token or 0)
        batch = job_pb2.Batch(name=f"batch {page}")
        return query_pb2.ListBatchesResponse(batches=[batch], next_page_token=str(page + 1) if page < 2 else "")

    async def SearchJob(
        self, request: query_pb2.SearchJobRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[query_pb2.SearchJobResponse]:
        await self._let_in(context)
        at, cut = self.search_cuts.pop(0) if self.search_cuts else (self.jobs, None)
        for index in range(self.jobs):
            if index == at and cut is not None:
                await cut.on(context)
            yield query_pb2.SearchJobResponse(job=job_pb2.Job(index=index), last=True)

    async def StreamLogs(
        self, request: query_pb2.StreamLogsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[query_pb2.LogChunk]:
        await self._let_in(context)
        self.requests.append(request)
        answer = self.script.pop(0) if self.script else self.whole
        async for item in answer(request):
            if isinstance(item, Abort):
                await item.on(context)
            else:
                yield item

    async def whole(
        self, request: query_pb2.StreamLogsRequest, *, piece_bytes: int = 7
    ) -> AsyncIterator[query_pb2.LogChunk | Abort]:
        """What a well-behaved service sends."""
        starts = {(c.job_index, c.stream): c.offset for c in request.cursors}
        for (job, stream), content in self.logs.items():
            if request.job_index and job not in request.job_index:
                continue
            for offset in range(starts.get((job, stream), 0), len(content), piece_bytes):
                yield data(job, offset, content[offset : offset + piece_bytes], stream=stream)
            yield end(job, len(content), stream=stream)


def data(job: int, offset: int, content: bytes, *, stream: int = job_pb2.LOG_STREAM_MERGED) -> query_pb2.LogChunk:
    return query_pb2.LogChunk(job_index=job, stream=stream, offset=offset, data=content)


def gap(job: int, offset: int, length: int) -> query_pb2.LogChunk:
    return query_pb2.LogChunk(
        job_index=job, stream=job_pb2.LOG_STREAM_MERGED, offset=offset, gap=query_pb2.LogGap(length=length)
    )


def end(job: int, total: int, *, stream: int = job_pb2.LOG_STREAM_MERGED) -> query_pb2.LogChunk:
    ended = query_pb2.LogEnd(total_bytes=total, state=job_pb2.JOB_STATE_SUCCEEDED, exit_code=0)
    return query_pb2.LogChunk(job_index=job, stream=stream, offset=total, end=ended)

"""The whole service as its operators start it, and a plain gRPC client of it: generated stubs, no SDK."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from jobworker.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    job_pb2,
    query_pb2,
    query_pb2_grpc,
    schedule_pb2,
    schedule_pb2_grpc,
)
from tests.harness import scratch
from tests.harness.pki import make_pki
from tests.harness.wait import DEADLINE_SECONDS, alive, children, command_line, until

CALL_SECONDS = 60.0
LOCAL = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_receive_message_length", 64 << 20)]


_given: set[int] = set()


def free_port() -> int:
    """A port that was free a moment ago, and is given once, for a service that is to keep it over restarts. It lies
    below those that the kernel gives to outgoing connections (ip(7), ip_local_port_range), so that none of these takes
    it meanwhile."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        lowest = int(file.read().split()[0])
    while True:
        port = random.randrange(10_000, max(lowest, 10_001))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Service:
    """`jobworker run` in a folder. Settings are environment variables without their prefix: JOBS__RUNNING="8"."""

    deadline_seconds = DEADLINE_SECONDS  # for it to answer

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.rest_port = free_port()
        self.metrics_port = free_port()
        self.passwords: dict[str, str] = {}
        self._settings = settings
        self._variables = dict(variables or {})  # others, as they are
        self._process: subprocess.Popen[bytes] | None = None
        self._apis: list[Api] = []

    @property
    def data(self) -> Path:
        """Where batches lie."""
        return self.folder / "data"

    @property
    def pki(self) -> Path:
        """Where keys and bundles lie."""
        return self.folder / "pki"

    def environment(self) -> dict[str, str]:
        """What `jobworker` and `jobpki` are started with."""
        settings = {
            **{f"PATHS__{name.upper()}": str(self.folder / name) for name in ("data", "logs", "pki", "run", "work")},
            "GRPC__PORT": str(self.port),
            "REST__PORT": str(self.rest_port),
            "METRICS__PORT": str(self.metrics_port),
            "JOBS__READABLE": ":".join(scratch.PROGRAMS),
            "JOBS__WRITABLE": str(scratch.ROOT),
            **self._settings,
        }
        return {**os.environ, **{f"JOBWORKER_{k}": v for k, v in settings.items()}, **self._variables}

    def make_pki(self) -> None:
        """Makes its PKI, if there is none; `start` does."""
        if not self.pki.exists():
            self.passwords = make_pki(self.pki).passwords

    def start(self, *, prefix: Sequence[str] = (), **popen: Any) -> Service:
        """Starts it, and waits until it answers. `prefix`: what it is started through, setpriv say. `popen`: among
        others its stdout, stderr and stdin, which else are the file `output` and nothing."""
        self.make_pki()
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "jobworker.server.cli", "run"],
                env=self.environment(),
                **{"stdout": output, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **popen},
            )
        self.ready()
        return self

    def ready(self) -> None:
        """Waits until the server answers."""

        def answers() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"the service ended: {self.output()}")
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", self.port)) == 0

        until(answers, f"the service answers; it said: {self.output()}", self.deadline_seconds)

    def output(self) -> str:
        """What it printed."""
        return (self.folder / "output").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self._process is not None
        return self._process.pid

    def child(self, name: str) -> int:
        """The supervisor's child: "server" or "executor"."""
        # The executor's program is a descriptor.
        wanted = {"server": "server", "executor": "--fd"}[name]

        def find() -> int | None:
            for pid in children(self.pid):
                if any(argument == wanted for argument in command_line(pid)):
                    return pid
            return None

        return until(find, f"a {name} runs")

    def kill_server(self) -> None:
        """kill -9 of the server alone; its supervisor starts another."""
        pid = self.child("server")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the server's end")
        # A zombie whose other threads are still on their way out holds its port; the next one comes after that.
        self.child("server")

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and its exit status."""
        for api in self._apis:
            api.close()
        self._apis.clear()
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not stop: {self.output()}") from None

    def api(self, user: str = "alice", *, login: bool = True) -> Api:
        """A client with a user's bundle, logged in."""
        api = Api(self.port, self.pki / "clients" / user)
        self._apis.append(api)
        if login:
            api.login(user, self.passwords[user])
        return api


class Api:
    """Generated stubs over one channel with mutual TLS."""

    def __init__(self, port: int, bundle: Path, options: Iterable[tuple[str, Any]] = ()) -> None:
        credentials = grpc.ssl_channel_credentials(
            (bundle / "ca.crt").read_bytes(), (bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes()
        )
        self.channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, [*LOCAL, *options])
        self.auth = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.schedule = schedule_pb2_grpc.JobScheduleServiceStub(self.channel)
        self.query = query_pb2_grpc.JobQueryServiceStub(self.channel)
        self.token = ""

    def close(self) -> None:
        """Ends its calls."""
        self.channel.close()

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """For each call but Login."""
        return [("authorization", f"Bearer {self.token}")]

    def call(self, **extra: Any) -> dict[str, Any]:
        """The keyword arguments of a call; it waits for a server that is starting."""
        extra.setdefault("timeout", CALL_SECONDS)
        extra.setdefault("wait_for_ready", True)
        extra["metadata"] = [*self.metadata, *extra.pop("metadata", ())]
        return extra

    def login(self, user: str, password: str) -> None:
        """Gets a token."""
        answer = self.auth.Login(
            auth_pb2.LoginRequest(username=user, password=password), timeout=CALL_SECONDS, wait_for_ready=True
        )
        self.token = answer.access_token

    def submit(
        self, *jobs: str | schedule_pb2.JobRequest, batch: job_pb2.BatchOptions | None = None, **call: Any
    ) -> str:
        """Submits a batch of shell command lines or requests; its CorrelationID."""
        requests = [schedule_pb2.JobRequest(command=j) if isinstance(j, str) else j for j in jobs]
        if batch is not None:
            requests[0].batch.CopyFrom(batch)
        answer: schedule_pb2.JobResponse = self.schedule.ExecuteJobs(iter(requests), **self.call(**call))
        assert answer.job_count == len(jobs)
        return answer.correlation_id

    def get(self, correlation_id: str) -> job_pb2.Batch:
        """GetBatch."""
        answer: job_pb2.Batch = self.query.GetBatch(
            query_pb2.GetBatchRequest(correlation_id=correlation_id), **self.call()
        )
        return answer

    def wait(self, correlation_id: str, seconds: float = CALL_SECONDS) -> job_pb2.Batch:
        """WaitBatch until it is final; again when the server went away meanwhile."""
        while True:
            try:
                batch: job_pb2.Batch = self.query.WaitBatch(
                    query_pb2.WaitBatchRequest(correlation_id=correlation_id), **self.call(timeout=seconds)
                )
            except grpc.RpcError as e:
                if e.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                continue
            assert batch.state > job_pb2.BATCH_STATE_RUNNING
            return batch

    def cancel(self, correlation_id: str, *indexes: int) -> job_pb2.Batch:
        """CancelBatch."""
        answer: job_pb2.Batch = self.schedule.CancelBatch(
            schedule_pb2.CancelBatchRequest(correlation_id=correlation_id, job_index=indexes), **self.call()
        )
        return answer

    def follow(self, correlation_id: str, **request: Any) -> Iterator[query_pb2.LogChunk]:
        """StreamLogs; `timeout` and `wait_for_ready` as of the call."""
        call = {k: request.pop(k) for k in ("timeout", "wait_for_ready") if k in request}
        stream: Iterator[query_pb2.LogChunk] = self.query.StreamLogs(
            query_pb2.StreamLogsRequest(correlation_id=correlation_id, **request), **self.call(**call)
        )
        return stream

    def log(self, correlation_id: str, index: int = 0, stream: int = job_pb2.LOG_STREAM_MERGED) -> bytes:
        """A job's whole log, to its end."""
        data = bytearray()
        ended = False
        for chunk in self.follow(correlation_id, job_index=[index]):
            if chunk.stream != stream:
                continue
            assert chunk.offset == len(data)
            data += chunk.data
            ended = ended or chunk.WhichOneof("payload") == "end"
        assert ended
        return bytes(data)

    def jobs(self, correlation_id: str) -> list[job_pb2.Job]:
        """Each job of a batch, once it is final."""
        answers = self.query.SearchJob(
            query_pb2.SearchJobRequest(correlation_id=correlation_id, omit_log=True), **self.call()
        )
        return [a.job for a in answers if a.last]


@contextlib.contextmanager
def running(folder: Path, variables: Mapping[str, str] | None = None, **settings: str) -> Iterator[Service]:
    """A service for one test."""
    service = Service(folder, variables, **settings)
    try:
        yield service.start()
    finally:
        service.stop()

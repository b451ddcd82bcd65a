"""The readers: what each is given, what a good one looks like, and which errors it may raise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from jobpki import bundle, keys
from jobpki.authority import make_authority
from jobpki.errors import PkiError
from jobpki.issued import parse_issued
from jobpki.passwords import PasswordCost, hash_password
from jobpki.revocation import Revoked, make_crls, read_revoked
from jobpki.revokedtokens import parse_revoked_tokens
from jobpki.users import parse_users
from jobworker.client.errors import from_rpc
from jobworker.executor import protocol
from jobworker.server.config import sources
from jobworker.server.config.record import DamagedRecordError, read_record
from jobworker.server.errors import DamagedError, InvalidRequestError, UnauthenticatedError
from jobworker.server.identity.certificate import Certificates
from jobworker.server.identity.token import Tokens
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchHeader, JobSpec
from jobworker.server.rest import decode, query
from jobworker.server.rpc.parse import parse
from jobworker.server.slices import Slices
from jobworker.server.store import frames, gaps, results
from jobworker.server.store.batchfile import BatchWriter, Digest, encode_spec
from jobworker.server.store.ends import read_ends
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.replay import apply_line, read_batch
from jobworker.server.store.stored import stored_in
from jobworker.server.telemetry import tracecontext
from jobworker.v1 import query_pb2, schedule_pb2
from tests.fuzz import auditlog

ID = "01920000-0000-7000-8000-000000000001"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOMEWHERE = Path("/nowhere")


@dataclass(frozen=True)
class Target:
    """`read` is called with bytes made from `seeds`, and may raise `refuses` and nothing else."""

    read: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    refuses: tuple[type[Exception], ...] = ()


@cache
def folder() -> Path:
    """Where readers that take a path find what they are given; gone with the process."""
    made = tempfile.TemporaryDirectory(prefix="jobworker-fuzz-")
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[object] = []


def in_file(name: str, read: Callable[[str], object]) -> Callable[[bytes], object]:
    """A reader of a path, as a reader of bytes."""

    def given(data: bytes) -> object:
        path = folder() / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return read(str(path))

    return given


# Requests


@cache
def slices() -> Slices:
    """One for all."""
    return Slices()


def job() -> schedule_pb2.JobRequest:
    """A request with something in each kind of field."""
    found = schedule_pb2.JobRequest(command="echo", argv=["a", "b"], env={"A": "b"}, stdin=b"x", name="é")
    found.timeout.FromSeconds(5)
    found.limits.memory_bytes = 1 << 30
    found.batch.labels["k"] = "v"
    found.jobs.add(command="true")
    return found


JSON_JOB = {
    "command": "echo", "env": {"A": "b"}, "stdin": "eA==", "timeout": "5.5s", "limits": {"memoryBytes": "1"},
    "output": "OUTPUT_MODE_SEPARATE", "batch": {"labels": {"k": "v"}, "parallelism": 3}, "jobs": [{"argv": ["a", "b"]}],
}  # fmt: skip


def grpc_request(data: bytes) -> None:
    """A message over gRPC."""
    asyncio.run(parse(schedule_pb2.JobRequest(), data, slices()))


def json_body(data: bytes) -> None:
    """A body over REST."""
    decode.fill(schedule_pb2.JobRequest(), decode.parse(data, "body"), "")


def query_string(data: bytes) -> None:
    """The parameters of a URL."""
    pairs = urllib.parse.parse_qsl(data.decode("latin-1"), keep_blank_values=True)
    query.put_query(query_pb2.StreamLogsRequest(), pairs, bound=("correlation_id",))


def traceparent(data: bytes) -> None:
    """What a caller says of its span."""
    text = data.decode("latin-1")
    tracecontext.parse(text, text)
    tracecontext.remote_of([("traceparent", text), ("tracestate", text)])


# Who calls


@cache
def authority() -> Any:
    """A certificate authority."""
    return make_authority(key=keys.generate(), trust_domain="jobworker", now=NOW, lifetime=timedelta(days=10), serial=7)


@cache
def certificate() -> bytes:
    """A client's."""
    from jobpki.authority import issue_client  # noqa: PLC0415

    made = issue_client(
        authority(),
        key=keys.generate().public_key(),
        user="alice",
        trust_domain="jobworker",
        now=NOW,
        lifetime=timedelta(days=1),
        serial=77,
    )
    return made.public_bytes(serialization.Encoding.PEM)


@cache
def tokens() -> Tokens:
    """Signs and checks."""
    return Tokens(keys=[keys.generate()], trust_domain="jobworker", lifetime_seconds=60, cached_tokens=1)


def token(data: bytes) -> None:
    """What comes after `Bearer`."""
    tokens().verify(data.decode("latin-1"), user="alice", thumbprint="x", now=0)


def client_certificate(data: bytes) -> None:
    """As TLS hands it on."""
    Certificates(trust_domain="jobworker").read(data, now=NOW.timestamp())


def crl() -> bytes:
    """With one revoked certificate."""
    issuer = authority().certificate.subject.public_bytes()
    return make_crls([authority()], {(issuer, 77): Revoked(time=NOW)}, before=[], now=NOW)


def revocations(data: bytes) -> None:
    """A file of CRLs, as it is read at a change."""
    path = folder() / "crl.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    read_revoked(path, [authority().certificate])


USERS = {
    "version": 1,
    "users": {
        "alice": {
            "role": "operator",
            "password": hash_password("x" * 8, PasswordCost(iterations=1, lanes=1, memory_kib=8)),
            "created_at": "2026-01-01T00:00:00Z",
            "epoch": 3,
        }
    },
}
ISSUED = {
    "version": 1,
    "certificates": [
        {
            "serial": "4d",
            "identity": "user/alice",
            "issuer": "ab",
            "not_before": "2026-01-01T00:00:00+00:00",
            "not_after": "2026-01-02T00:00:00+00:00",
        }
    ],
}

# The service's own files


def batch_file() -> bytes:
    """A batch of two jobs."""
    header = BatchHeader(
        correlation_id=CorrelationId.parse(ID), user="alice", accepted_at=1, name="n", parallelism=2, fail_fast=True,
        labels={"k": "v"},
    )  # fmt: skip
    writer = BatchWriter(header, Digest(), disk=None, create=lambda: -1)  # type: ignore[arg-type]
    writer.add(encode_spec(JobSpec(argv=("echo", "é"), env={"A": "b"}, stdin=b"\0")))
    writer.add(encode_spec(JobSpec(argv=("true",))))
    return writer.finish()


def read_all(data: bytes) -> None:
    """A batch's folder, and each of its jobs."""
    if data:
        batch = read_batch(f"/nowhere/{ID}", data)
        for index in range(batch.job_count):
            batch.reader.spec(index)


RESULTS = b"""{"k":"ordered","job":0,"at":1}
{"k":"start","job":0,"at":2,"pid":7}
{"k":"end","job":0,"state":3,"reason":1,"code":0,"started":2,"ended":3,"usage":[1,2,3,4,5,6,7],"logs":[5]}
{"k":"skip","from":1,"to":2,"state":6,"reason":6,"at":4}
{"k":"final","counts":{"3":1,"6":1},"started":2,"ended":4,"logs":[5,1]}
"""


def result_lines(path: str) -> None:
    """A batch's results, on a batch as it was accepted."""
    batch = read_batch(f"/nowhere/{ID}", batch_file())
    for offset, line in results.read_lines(path, lambda _offset, _line: None):
        apply_line(batch, line, offset, lambda _path, _what: None)


def finished_results(data: bytes) -> None:
    """A finished batch, and each of its jobs."""
    where = folder() / ID
    where.mkdir(exist_ok=True)
    (where / "batch.jsonl").write_bytes(batch_file())
    (where / "results.jsonl").write_bytes(data)
    read_ends(str(where), 10)
    stored_in(str(where))
    batch = FinishedBatch(str(where))
    for index in range(batch.job_count):
        batch.job(index)


def commit_log(data: bytes) -> None:
    """A segment, through all its frames."""
    _, found = frames.read_segment(data, lambda _offset: None)
    for _ in found:
        pass


def segment() -> bytes:
    """With two groups."""
    content = batch_file()
    one = frames.accept_frame(ID, 2, content) + frames.results_frame(ID, 0, RESULTS)
    two = frames.gone_frame(ID)
    return b"".join([
        frames.segment_frame(1, "boot"), frames.group_frame(len(one)), one, frames.group_frame(len(two)), two,
    ])  # fmt: skip


def configuration(data: bytes) -> None:
    """A TOML file."""
    sources.combine(sources.File(SOMEWHERE, data), {}, {})


# Between the service's programs, and back to a client


def refusal(data: bytes) -> None:
    """A status with details, as a service, or a proxy before it, sends it."""
    error: Any = SimpleNamespace(
        code=lambda: grpc.StatusCode.UNAUTHENTICATED,
        details=lambda: "no",
        trailing_metadata=lambda: [("grpc-status-details-bin", data)],
    )
    from_rpc(error)


def details() -> bytes:
    """With one of each kind."""
    found = status_pb2.Status(code=16, message="no")
    for detail in (
        error_details_pb2.ErrorInfo(reason="TOKEN_EXPIRED", domain="jobworker", metadata={"a": "b"}),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1)),
        error_details_pb2.BadRequest(field_violations=[{"field": "a", "description": "b"}]),
        error_details_pb2.QuotaFailure(violations=[{"subject": "service"}]),
    ):
        packed = AnyMessage()
        packed.Pack(detail)
        found.details.append(packed)
    return found.SerializeToString()


def jsons(*values: object) -> list[bytes]:
    """As text."""
    return [json.dumps(value).encode() for value in values]


TARGETS: dict[str, Target] = {
    "a request over gRPC": Target(grpc_request, lambda: [job().SerializeToString()], (DecodeError,)),
    "a body over REST": Target(json_body, lambda: jsons(JSON_JOB), (InvalidRequestError,)),
    "a query string": Target(
        query_string,
        lambda: [b"job_index=1&job_index=2&no_follow=true&tail_bytes=5&tail_lines=7"],
        (InvalidRequestError,),
    ),
    "a traceparent": Target(traceparent, lambda: [b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"]),
    "a token": Target(
        token,
        lambda: [tokens().issue(user="alice", thumbprint="x", login="", now=0).access_token.encode()],
        (UnauthenticatedError,),
    ),
    "a client's certificate": Target(client_certificate, lambda: [certificate()], (UnauthenticatedError,)),
    "certificates": Target(
        lambda data: bundle.load_certificates(data, SOMEWHERE), lambda: [certificate() * 2], (PkiError,)
    ),
    "token keys": Target(
        lambda data: keys.p256s_from_pem(data, SOMEWHERE), lambda: [keys.to_pem(keys.generate()) * 2], (PkiError,)
    ),
    "revocations": Target(
        revocations, lambda: [crl() * 2], (PkiError,)
    ),
    "revoked tokens": Target(
        lambda data: parse_revoked_tokens(data, SOMEWHERE),
        lambda: jsons({"version": 1, "tokens": {"A" * 22: "2027-01-01T00:00:00+00:00"}}),
        (PkiError,),
    ),
    "the users": Target(lambda data: parse_users(data, SOMEWHERE), lambda: jsons(USERS), (PkiError,)),
    "what was issued": Target(lambda data: parse_issued(data, SOMEWHERE), lambda: jsons(ISSUED), (PkiError,)),
    "the configuration": Target(
        configuration, lambda: [b'[jobs]\nrunning = 5\n[grpc]\nhost = "::1"\n'], (sources.ConfigError,)
    ),
    "the record of the configuration": Target(
        in_file("record", read_record),
        lambda: jsons({"generation": 3, "updates": {"jobs.running": 5}, "digest": "x"}),
        (DamagedRecordError,),
    ),
    "a batch": Target(read_all, lambda: [batch_file()], (DamagedError, InvalidRequestError)),
    "results": Target(in_file("results", result_lines), lambda: [RESULTS]),
    "finished results": Target(finished_results, lambda: [RESULTS, RESULTS[: RESULTS.rindex(b"{")]], (DamagedError,)),
    "an audit log": Target(in_file(auditlog.NAME, auditlog.read), lambda: [auditlog.lines()]),
    "the commit log": Target(commit_log, lambda: [segment()], (frames.FormatError,)),
    "the gaps of a log": Target(
        in_file("log.gaps", lambda path: gaps.read(path.removesuffix(".gaps"))),
        lambda: jsons([[0, 4096], [8192, 9000]]),
        (DamagedError,),
    ),
    "a message of the executor": Target(
        protocol.decode,
        lambda: [protocol.encode({"m": "ended", "ends": [{"id": "x", "code": 0}]})],
        (protocol.ProtocolError,),
    ),
    "a refusal": Target(refusal, lambda: [details()]),
}  # fmt: skip


def run(target: Target, data: bytes) -> None:
    """Has it read; what it raises beside its refusals is a fault."""
    with contextlib.suppress(*target.refuses):
        target.read(data)

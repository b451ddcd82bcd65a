"""What goes wrong in a call, as exceptions: from the status and the google.rpc details that the service sends.

Nothing here knows which call it was, or whether it is worth another try; that is `retry`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf import any_pb2

_DETAILS_KEY = "grpc-status-details-bin"  # where gRPC carries a google.rpc.Status


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: `field` as a path in it (`jobs[17].command`)."""

    field: str
    description: str


class JobworkerError(Exception):
    """A call that failed; `str(error)` is one line for people.

    `code` is the gRPC status code, `reason` that of google.rpc.ErrorInfo (such as TOKEN_EXPIRED, else empty),
    `metadata` what it says besides, `violations` those of google.rpc.BadRequest, `subject` whose quota it was,
    `retry_after_seconds` what the service asks to wait before another try (None: it does not say).
    """

    code = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        violations: tuple[Violation, ...] = (),
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        subject: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.violations = violations
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.subject = subject
        self.retry_after_seconds = retry_after_seconds


class InvalidArgumentError(JobworkerError):
    """The request cannot be right at any time; `violations` say what is wrong."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(JobworkerError):
    """Not there, or another user's: the service does not tell which."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(JobworkerError):
    """The batch's name is taken by another content."""

    code = grpc.StatusCode.ALREADY_EXISTS


class UnauthenticatedError(JobworkerError):
    """No valid token, or not with this certificate; `reason` says why."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(JobworkerError):
    """The user's role does not allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class FailedPreconditionError(JobworkerError):
    """Not in the state that the service is in."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class OutOfRangeError(JobworkerError):
    """A cursor beyond the end of a log: `metadata` has `job_index`, `stream`, `offset`, and the log's `size`. A
    follower meets it when a power failure took the last bytes of the log: see Client.follow."""

    code = grpc.StatusCode.OUT_OF_RANGE


class ExhaustedError(JobworkerError):
    """A limit is reached; `subject` says whose, `retry_after_seconds` when to try again."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceededError(JobworkerError):
    """The call took longer than it was given."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class UnavailableError(JobworkerError):
    """The service cannot be reached, or not now."""

    code = grpc.StatusCode.UNAVAILABLE


class UnreachableError(UnavailableError):
    """The service cannot be reached, and another try would fail as well: its name does not resolve."""


class HandshakeError(UnreachableError):
    """No connection comes about for a certificate, key, authority or name that is wrong or past its time, here or at
    the service; the message says which, and what mends it."""


class CutError(UnavailableError):
    """A stream of logs ended before every log did, or left out bytes."""


class BundleError(JobworkerError):
    """A file of the certificate bundle cannot be read."""

    code = grpc.StatusCode.UNAUTHENTICATED


_CLASSES: dict[grpc.StatusCode, type[JobworkerError]] = {
    kind.code: kind
    for kind in (
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        UnauthenticatedError,
        PermissionDeniedError,
        FailedPreconditionError,
        OutOfRangeError,
        ExhaustedError,
        DeadlineExceededError,
        UnavailableError,
    )
}


# Of details that are not this service's: a proxy's. Code and message still hold.
_UNREADABLE = (DecodeError, OverflowError, ValueError)


def from_rpc(error: grpc.aio.AioRpcError) -> JobworkerError:
    """The exception for a failed call, with what its google.rpc details tell."""
    code, message = error.code(), error.details() or error.code().name
    if code is grpc.StatusCode.UNAVAILABLE and "handshake" in message.lower():
        return HandshakeError(_handshake_words(message))
    violations: list[Violation] = []
    reason = subject = ""
    metadata: dict[str, str] = {}
    retry_after_seconds: float | None = None
    for detail in _details(error):
        with suppress(*_UNREADABLE):
            if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest.FromString(detail.value)
                violations += [Violation(v.field, v.description) for v in bad.field_violations]
            elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after_seconds = delay.ToTimedelta().total_seconds()
            elif detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
                quota = error_details_pb2.QuotaFailure.FromString(detail.value)
                subject = next((v.subject for v in quota.violations), "")
    return _CLASSES.get(code, JobworkerError)(
        message,
        code=code,
        violations=tuple(violations),
        reason=reason,
        metadata=metadata,
        subject=subject,
        retry_after_seconds=retry_after_seconds,
    )


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except _UNREADABLE:
                return []
    return []


def _handshake_words(message: str) -> str:
    """gRPC's words are a chain of errors, C++ files included; the last, BoringSSL's, says what it was."""
    cause = message.rsplit("OPENSSL_internal:", 1)[-1].split(":", 1)[0] if "OPENSSL_internal:" in message else message
    return f"the TLS handshake failed: {cause.strip().rstrip('.')}"

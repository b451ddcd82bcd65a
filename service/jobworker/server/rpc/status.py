"""Domain errors as google.rpc.Status, and how a call is ended with one. The one file that knows status codes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from jobworker.server.errors import (
    AlreadyExistsError,
    DamagedError,
    DeadlineError,
    ExhaustedError,
    InvalidRequestError,
    JobworkerError,
    NotFoundError,
    NotOfTodayError,
    OutOfRangeError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN = "jobworker"

# As google/rpc/code.proto has it ("HTTP Mapping").
_HTTP: dict[int, int] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.UNKNOWN: 500,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DATA_LOSS: 500,
}

# A client's limit for all trailing metadata is 8 KiB (grpc.max_metadata_size), the details travel in base64 there.
_MAX_VIOLATIONS = 10
_MAX_TEXT = 300
# A client that reads nothing gets its status when it reads again; the call does not wait for that (see the flow
# control of RFC 9113: trailers come behind the data that the window holds back).
_SEND_SECONDS = 5.0


def of(error: JobworkerError) -> status_pb2.Status:
    """The status of an error, with its details."""
    code, details = _code_and_details(error)
    status = status_pb2.Status(code=code, message=_short(str(error), _MAX_TEXT * 3))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def internal(incident: str) -> status_pb2.Status:
    """The status of a failure that is ours: it tells the incident's id, to be found in the log, and nothing else."""
    return status_pb2.Status(code=code_pb2.INTERNAL, message=f"internal error, see incident {incident} in the log")


def unimplemented(message: str) -> status_pb2.Status:
    """The status of something that the service does not have."""
    return status_pb2.Status(code=code_pb2.UNIMPLEMENTED, message=message)


def http(status: status_pb2.Status) -> int:
    """The HTTP status that goes with a status."""
    return _HTTP.get(status.code, 500)


def name(status: status_pb2.Status) -> str:
    """`NOT_FOUND`, for logs."""
    return str(code_pb2.Code.Name(status.code))


async def end(context: Any, status: status_pb2.Status) -> None:
    """Ends a call with a status; never returns normally.

    Raises:
        grpc.aio.AbortError: the status is on its way.
        asyncio.CancelledError: the client is gone, or takes nothing at the moment.
    """
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await context.abort_with_status(rpc_status.to_status(status))
    except (TimeoutError, grpc.aio.InternalError):
        raise asyncio.CancelledError from None


def _code_and_details(error: JobworkerError) -> tuple[code_pb2.Code.ValueType, list[Message]]:
    match error:
        case InvalidRequestError():
            return _invalid(error)
        case UnauthenticatedError():
            return code_pb2.UNAUTHENTICATED, [_error_info(error.reason)]
        case PermissionDeniedError():
            return code_pb2.PERMISSION_DENIED, [_error_info(error.reason)]
        case ExhaustedError():
            return code_pb2.RESOURCE_EXHAUSTED, [_retry_info(error.retry_after_seconds), _quota_failure(error)]
        case UnavailableError():
            return code_pb2.UNAVAILABLE, [_retry_info(error.retry_after_seconds)]
    return next(code for kind, code in _PLAIN.items() if isinstance(error, kind)), []


_PLAIN: dict[type[JobworkerError], code_pb2.Code.ValueType] = {
    NotFoundError: code_pb2.NOT_FOUND,
    AlreadyExistsError: code_pb2.ALREADY_EXISTS,
    PreconditionError: code_pb2.FAILED_PRECONDITION,
    DamagedError: code_pb2.DATA_LOSS,
    DeadlineError: code_pb2.DEADLINE_EXCEEDED,
}


def _invalid(error: InvalidRequestError) -> tuple[code_pb2.Code.ValueType, list[Message]]:
    if isinstance(error, NotOfTodayError):
        now = _error_info("ID_NOT_OF_TODAY", {"server_time_ms": error.now_ms})
        return code_pb2.INVALID_ARGUMENT, [_bad_request(error), now]
    if not isinstance(error, OutOfRangeError):
        return code_pb2.INVALID_ARGUMENT, [_bad_request(error)]
    log = {"job_index": error.index, "stream": error.stream, "offset": error.offset, "size": error.size}
    return code_pb2.OUT_OF_RANGE, [_bad_request(error), _error_info("LOG_IS_SHORTER", log)]


def _bad_request(error: InvalidRequestError) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=_short(violation.field, _MAX_TEXT), description=_short(violation.description, _MAX_TEXT)
            )
            for violation in error.violations[:_MAX_VIOLATIONS]
        ]
    )


def _quota_failure(error: ExhaustedError) -> error_details_pb2.QuotaFailure:
    return error_details_pb2.QuotaFailure(
        violations=[error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=str(error))]
    )


def _error_info(reason: str, metadata: dict[str, object] | None = None) -> error_details_pb2.ErrorInfo:
    texts = {key: str(value) for key, value in (metadata or {}).items()}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=texts)


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."

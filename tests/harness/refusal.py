"""How the service refuses a call: its status with the details, as a client library would read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

TRACES = ("Traceback", 'File "', ".py", "Error(", "site-packages")


@dataclass(frozen=True)
class Refusal:
    """A status; `fields` of BadRequest, `reason` of ErrorInfo, `subjects` of QuotaFailure, RetryInfo in seconds."""

    code: grpc.StatusCode
    message: str
    fields: list[str] = field(default_factory=list)
    reason: str = ""
    subjects: list[str] = field(default_factory=list)
    retry_seconds: float | None = None

    @property
    def name(self) -> str:
        """The code: NOT_FOUND."""
        return str(self.code.name)


def refusal(error: grpc.RpcError) -> Refusal:
    """Reads an error; none tells of the server's insides."""
    message = error.details() or ""
    status = rpc_status.from_call(error)
    assert not any(trace in f"{message}{status}" for trace in TRACES), message
    found: dict[str, Any] = {}
    for detail in status.details if status is not None else ():
        bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
        quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            found["fields"] = [violation.field for violation in bad.field_violations]
            assert all(violation.description for violation in bad.field_violations)
        elif detail.Unpack(info):
            assert info.domain == "jobworker"
            found["reason"] = info.reason
        elif detail.Unpack(quota):
            found["subjects"] = [violation.subject for violation in quota.violations]
        elif detail.Unpack(retry):
            found["retry_seconds"] = retry.retry_delay.ToNanoseconds() / 1e9
    return Refusal(code=error.code(), message=message, **found)


def refused(call: Callable[[], Any]) -> Refusal:
    """Makes a call that is to be refused; a stream is read until it is."""
    try:
        answer = call()
        if hasattr(answer, "__iter__"):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        return refusal(error)
    raise AssertionError(f"it was not refused: {answer}")

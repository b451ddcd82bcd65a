"""Refusals that only HTTP has, each with its own HTTP status; as google.rpc.Status they are what their bases are."""

from __future__ import annotations

from jobworker.server.errors import DeadlineError, InvalidRequestError, Violation


class TooLargeError(InvalidRequestError):
    """The body, or a line of it, is over its limit."""

    http_status = 413  # RFC 9110 section 15.5.14

    def __init__(self, field: str, limit_bytes: int) -> None:
        super().__init__(Violation(field, f"has more than {limit_bytes} bytes"))


class MediaTypeError(InvalidRequestError):
    """The body is of a kind, or coded in a way, that is not taken here."""

    http_status = 415  # RFC 9110 section 15.5.16


class SlowBodyError(DeadlineError):
    """The body did not come in time."""

    http_status = 408  # RFC 9110 section 15.5.9


HTTP_REFUSALS = (TooLargeError, MediaTypeError, SlowBodyError)

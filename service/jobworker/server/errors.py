"""The errors that the service's parts raise for callers to see; `rpc/status.py` alone turns them into statuses.

Each carries a public message. A private cause goes along as `__cause__` and is logged, never sent. Nothing here knows
gRPC or HTTP.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum


class AuthReason(StrEnum):
    """Why a call was not let in: the `reason` of google.rpc.ErrorInfo, domain "jobworker" (docs/api.md)."""

    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"  # names no user, has expired, or is not a client certificate
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105
    TOKEN_MALFORMED = "TOKEN_MALFORMED"  # noqa: S105 - not a JWT that this service could have signed
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105
    TOKEN_FOREIGN = "TOKEN_FOREIGN"  # noqa: S105 - another user's, or bound to another key
    LOGIN_FAILED = "LOGIN_FAILED"
    USER_UNKNOWN = "USER_UNKNOWN"  # no longer in the users file
    USER_DISABLED = "USER_DISABLED"
    ROLE_INSUFFICIENT = "ROLE_INSUFFICIENT"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: `field` as a path in it (`jobs[17].command`)."""

    field: str
    description: str


class JobworkerError(Exception):
    """A failure with a public message (`str(error)`)."""


class InvalidRequestError(JobworkerError):
    """The request cannot be right at any time."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class OutOfRangeError(InvalidRequestError):
    """A cursor is beyond the end of its log: it was never right, or a power failure took the log's last bytes."""

    def __init__(self, field: str, *, index: int, stream: str, offset: int, size: int) -> None:
        super().__init__(Violation(field, f"is {offset}, beyond the {size} bytes of the log"))
        self.index = index
        self.stream = stream
        self.offset = offset
        self.size = size


class NotOfTodayError(InvalidRequestError):
    """A name's time is more than a day from the server's, which it tells, in milliseconds since 1970."""

    def __init__(self, field: str, *, now_ms: int) -> None:
        super().__init__(Violation(field, "its time is more than a day from the server's"))
        self.now_ms = now_ms


def invalid(field: str, description: str) -> InvalidRequestError:
    """An InvalidRequestError for one field."""
    return InvalidRequestError(Violation(field, description))


class NotFoundError(JobworkerError):
    """Not there, or another's: callers cannot tell which."""


class AlreadyExistsError(JobworkerError):
    """The name is taken by something else."""


class PreconditionError(JobworkerError):
    """Not in the state that the service is in; the message says what is to be done first."""


class UnauthenticatedError(JobworkerError):
    """Who calls is not established. `token_id`: of a token of ours that came along; for the audit log."""

    def __init__(self, reason: AuthReason, message: str, *, token_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.token_id = token_id


class PermissionDeniedError(JobworkerError):
    """Who calls is known and may not do this. `token_id`: as above."""

    def __init__(
        self, message: str, reason: AuthReason = AuthReason.ROLE_INSUFFICIENT, *, token_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.token_id = token_id


class ExhaustedError(JobworkerError):
    """A limit is reached; `subject` says whose (`user:alice`, `service`), as google.rpc.QuotaFailure has it."""

    def __init__(self, message: str, *, subject: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.subject = subject
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(JobworkerError):
    """Not now: the service stops, or a part of it is away."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineError(JobworkerError):
    """The time that the call was given is over."""


class DamagedError(JobworkerError):
    """Files of the service could not be read as what they should be; `path` is for the log, not for the caller."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


# What reading a file raises whose content is not what was written there: bits that flipped, lines of another file.
UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)


def service_trouble(error: BaseException) -> ExhaustedError | UnavailableError | None:
    """What callers are told when the service itself was short of something, or its disk failed; None: the error is
    another."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    trouble: ExhaustedError | UnavailableError
    if number in _DISK_FAILS:
        trouble = UnavailableError("the service's disk fails", retry_after_seconds=_RETRY_SECONDS)
    elif number in _SHORT:
        seconds = _FULL_RETRY_SECONDS if _SHORT[number] is _DISK else _RETRY_SECONDS
        trouble = ExhaustedError(_SHORT[number], subject="service", retry_after_seconds=seconds)
    else:
        return None
    trouble.__cause__ = error
    return trouble


_FILES, _MEMORY, _DISK = "the service has too many files open", "the service has no memory left", "the disk is full"
_SHORT = {
    errno.EMFILE: _FILES,  # RLIMIT_NOFILE
    errno.ENFILE: _FILES,  # fs.file-max
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
}
_DISK_FAILS = (errno.EIO, errno.EUCLEAN, errno.EROFS)  # EUCLEAN: ext4 and XFS say so of damage that they find
_RETRY_SECONDS, _FULL_RETRY_SECONDS = 5.0, 30.0

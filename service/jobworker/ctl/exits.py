"""The exit codes of `jobctl`, and the one line that goes with each failure; it names nothing that is secret."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING

from jobworker.ctl.visible import visible

if TYPE_CHECKING:
    from jobworker.client import JobworkerError


class Exit(IntEnum):
    """What `jobctl` exits with; `run` exits as its job did instead. Listed in `--help`."""

    OK = 0
    NOT_SUCCEEDED = 1
    USAGE = 2
    NOT_LOGGED_IN = 3
    NOT_FOUND = 4
    REFUSED = 5
    UNAVAILABLE = 6
    TIMED_OUT = 124  # as timeout(1) has it
    BUG = 70  # EX_SOFTWARE of sysexits(3)
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it
    PIPE = 141  # 128 + SIGPIPE


EXITS_HELP = """\b
Exit codes:
    0  done; the batch succeeded, where a command waits for it
    1  the batch or job did not succeed
    2  wrong usage, or input that cannot be read
    3  not logged in, or not allowed
    4  no such batch or job
    5  the request is invalid, or refused for now
    6  the service cannot be reached
  124  the time of `wait --timeout` was over before the batch
  130  interrupted
`jobctl run` exits as its job did: with its exit code, or 128 plus the signal that ended it."""


def complain(text: str) -> None:
    """One line on stderr. Here, and not with the rest of the output, since that takes protobuf's time to import."""
    sys.stderr.write(f"jobctl: {visible(text)}\n")


class CtlError(Exception):
    """A failure on this side, with its exit code; `str(error)` is one line for people."""

    def __init__(self, message: str, exit_code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_CODES = {  # by the name of the gRPC status code
    "INVALID_ARGUMENT": Exit.REFUSED,
    "OUT_OF_RANGE": Exit.REFUSED,
    "ALREADY_EXISTS": Exit.REFUSED,
    "FAILED_PRECONDITION": Exit.REFUSED,
    "RESOURCE_EXHAUSTED": Exit.REFUSED,
    "NOT_FOUND": Exit.NOT_FOUND,
    "UNAUTHENTICATED": Exit.NOT_LOGGED_IN,
    "PERMISSION_DENIED": Exit.NOT_LOGGED_IN,
    "UNAVAILABLE": Exit.UNAVAILABLE,
    "DEADLINE_EXCEEDED": Exit.UNAVAILABLE,
}


def explain(error: JobworkerError, *, server: str) -> tuple[str, Exit]:
    """One line about a call that failed, and the exit code."""
    code = error.code.name
    words = " ".join(error.message.split())
    if code == "UNAUTHENTICATED" and error.reason.startswith("TOKEN_"):
        words += " - run: jobctl login"
    elif code == "UNAVAILABLE":
        words = f"{server}: {_shorter(words)}"
    elif code not in _CODES:
        words = f"{server}: {code}: {words}"
    if error.retry_after_seconds:
        words += f" (try again in {error.retry_after_seconds:g} s)"
    return words, _CODES.get(code, Exit.UNAVAILABLE)


def _shorter(words: str) -> str:
    """gRPC's words for a failed connection are a chain of errors; the end of it says what happened."""
    if "last error:" not in words:
        return words
    cause = words.rsplit(": ", 1)[-1].strip(" .)")
    return f"the service cannot be reached: {cause[0].lower()}{cause[1:]}" if cause else words

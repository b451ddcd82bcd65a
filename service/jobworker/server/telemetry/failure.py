"""What an exception may say in the log: which it is and where it came from, never its own text.

A text that a library makes may hold what it was given: a header that is not ASCII, a password that is not UTF-8. It
says the class instead, the place in the source, and of the operating system's errors their number and file.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

from jobworker.server.errors import JobworkerError

_CHAIN_MOST = 8


def describe(error: BaseException | None) -> str | None:
    """In one line: `PermissionError: [Errno 13] Permission denied: '/x'`, `jwt.exceptions.DecodeError`."""
    if error is None:
        return None
    kind = name_of(type(error))
    if isinstance(error, JobworkerError):  # made here, to be sent to callers
        return f"{kind}: {error}"
    # Not the text, which is whatever somebody made the error with.
    if isinstance(error, OSError) and isinstance(error.errno, int):
        files = "".join(f": {file!r}" for file in (error.filename, error.filename2) if isinstance(file, str | bytes))
        return f"{kind}: [Errno {error.errno}] {os.strerror(error.errno)}{files}"
    return kind


def trace(error: BaseException) -> str:
    """Where it came from: the stack of each exception of its chain, the first cause first, without their texts."""
    return "".join(reversed([*_stacks(error)]))


def name_of(kind: type[BaseException]) -> str:
    """Its class, with the module: `jwt.exceptions.DecodeError`."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _stacks(error: BaseException) -> Iterator[str]:
    """The last first."""
    found: BaseException | None = error
    for _ in range(_CHAIN_MOST):
        if found is None:
            return
        # The lines are those of the source, and hold no values.
        lines = "".join(traceback.format_tb(found.__traceback__))
        yield f"{describe(found)}, raised at\n{lines}"
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)

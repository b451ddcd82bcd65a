"""What libraries and the interpreter would print on standard error goes into the service's log, without the values.

They tell of failures in words that are made of whatever they were handling: gRPC of metadata that is not UTF-8, asyncio
of a callback with its arguments. Here they are told as the place that spoke and the class of the exception.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from jobworker.server.telemetry.failure import describe, trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.telemetry.log import Log


def take_over(log: Log, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """From now on they are told in the log; returns what ends that."""
    handler = _Handler(log)
    root = logging.getLogger()
    before = root.handlers[:], sys.unraisablehook, threading.excepthook

    def in_a_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            name = None if arguments.thread is None else arguments.thread.name
            _tell(log, "a thread ended with a failure", arguments.exc_value, source=name)

    def unraisable(arguments: Any) -> None:
        _tell(log, "a failure that nobody could be told", arguments.exc_value)

    def in_the_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Its message names callbacks with their arguments.
        _tell(log, "a failure on the event loop", context.get("exception"))

    root.handlers[:] = [handler]
    sys.unraisablehook, threading.excepthook = unraisable, in_a_thread
    loop.set_exception_handler(in_the_loop)

    def end() -> None:
        root.handlers[:], sys.unraisablehook, threading.excepthook = before
        loop.set_exception_handler(None)

    return end


class _Handler(logging.Handler):
    """The template of a message is its author's, and its arguments are not; without arguments it may be either."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        place = f"{record.pathname}:{record.lineno}"
        template = record.msg if record.args and isinstance(record.msg, str) else None
        _tell(self._log, "a library's warning", error, source=record.name, place=place, template=template)


def _tell(log: Log, event: str, error: BaseException | None, **fields: object) -> None:
    if error is not None:
        fields |= {"problem": describe(error), "traceback": trace(error)}
    log.warning(event, **fields)

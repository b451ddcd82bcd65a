"""The way of spans out of the server: a bounded queue, and a thread that makes them, a piece at a time, and exports
them. An exporter that is down or slow costs its spans and nothing else. Does not know what the spans are about."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from jobworker.server.telemetry.failure import describe, trace
from jobworker.server.threads import started

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from jobworker.server.telemetry.log import Log

# Makes the spans, in the thread.
Work = Callable[[], Iterable["ReadableSpan"]]
EXPORTED, FAILED, DROPPED = "exported", "failed", "dropped"
_ABORT_SECONDS = 0.5


class Exporter(Protocol):
    """Where spans go."""

    endpoint: str

    def export(self, spans: list[ReadableSpan]) -> str:
        """Sends them; returns why it could not, or nothing."""
        ...

    def shutdown(self) -> None:
        """Gives up what it does; any thread."""
        ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The bounds. `delay_seconds`: how long spans are collected before they are sent."""

    spans: int
    spans_at_once: int
    delay_seconds: float


class Pipeline:
    """`put` on one thread; `close` at the end."""

    def __init__(
        self, *, exporter: Exporter, limits: QueueLimits, count: Callable[[str, int], object], log: Log
    ) -> None:
        """`count` is told how many spans were "dropped", on the thread that puts them, and how many were "exported" or
        "failed", on the pipeline's own."""
        self._exporter = exporter
        self._count = count
        self._limits = limits
        self._log = log
        self._queue: deque[tuple[int, Work]] = deque()
        self._waiting = 0  # spans in the queue, as their `count` said
        self._some = threading.Event()
        self._enough = threading.Event()
        self._closing = False
        self._down = False
        self._thread = started(self._run, name="spans")

    def put(self, count: int, work: Work) -> None:
        """Has about `count` spans made and sent, or counts them as dropped. However many they are, one piece of work
        takes the room of one span: it is small until it is done."""
        queue = self._queue
        if len(queue) >= self._limits.spans:
            self._count(DROPPED, count)
            return
        queue.append((count, work))
        self._waiting += count
        if not self._some.is_set():
            self._some.set()
        if self._waiting >= self._limits.spans_at_once and not self._enough.is_set():
            self._enough.set()

    def close(self, seconds: float) -> None:
        """Sends what there is, for so long at the most; blocks."""
        self._closing = True
        self._enough.set()
        self._some.set()
        if not self._down:
            self._thread.join(seconds)
        self._exporter.shutdown()
        self._thread.join(_ABORT_SECONDS)

    def _run(self) -> None:
        while not (self._closing and not self._queue):
            self._some.wait()
            if not self._closing:
                self._enough.wait(self._limits.delay_seconds)
                self._enough.clear()
            # Before the queue is looked at: what comes after that sets it again.
            self._some.clear()
            if self._closing:
                self._some.set()
            self._drain()

    def _drain(self) -> None:
        spans = self._made()
        while piece := list(islice(spans, self._limits.spans_at_once)):
            if self._closing and self._down:
                self._count(FAILED, len(piece))
                continue
            self._send(piece)

    def _made(self) -> Iterable[ReadableSpan]:
        return iter(self._spans())

    def _spans(self) -> Iterable[ReadableSpan]:
        while True:
            try:
                count, work = self._queue.popleft()
            except IndexError:
                return
            self._waiting -= count
            try:
                yield from work()
            except Exception as error:
                self._count(FAILED, count)
                self._log.error("spans were not made", problem=describe(error), traceback=trace(error))

    def _send(self, spans: list[ReadableSpan]) -> None:
        try:
            problem = self._exporter.export(spans)
        except Exception as error:
            problem = describe(error) or ""
        self._count(FAILED if problem else EXPORTED, len(spans))
        if bool(problem) != self._down and not self._closing:
            self._down = bool(problem)
            if problem:
                self._log.warning("spans are not taken", endpoint=self._exporter.endpoint, problem=problem)
            else:
                self._log.info("spans are taken again", endpoint=self._exporter.endpoint)

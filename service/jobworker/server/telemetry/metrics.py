"""The server's metrics whole: what is counted, what is read, and where both are served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.telemetry import names
from jobworker.server.telemetry.calls import CallMetrics
from jobworker.server.telemetry.exposition import Exposition
from jobworker.server.telemetry.instruments import Instruments
from jobworker.server.telemetry.jobs import JobMetrics
from jobworker.server.telemetry.lag import LoopLag

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.telemetry.state import State

_SPAN_OUTCOMES = ("exported", "failed", "dropped")


class Metrics:
    """Made before everything that is counted, on the event loop. `jobs` is an Observer, `calls` a CallObserver."""

    def __init__(self, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        instruments = Instruments()
        self.jobs = JobMetrics(instruments)
        self.calls = CallMetrics(instruments, clock=clock)
        self._fsync = instruments.histogram(names.FSYNC_SECONDS).of()
        self._fsync_failed = instruments.counter(names.FSYNC_FAILED).of()
        self._audit_lost = instruments.counter(names.AUDIT_LOST).of()
        spans = instruments.counter(names.SPANS_EXPORTED)
        self._spans = {outcome: spans.of(outcome) for outcome in _SPAN_OUTCOMES}
        self._lag = LoopLag(report=instruments.histogram(names.EVENT_LOOP_LAG).of().observe, clock=monotonic)
        self._exposition = Exposition(clock=monotonic)
        self._exposition.add(instruments)

    def synced(self, seconds: float, failed: bool) -> None:
        """A sync to disk took so long."""
        self._fsync.observe(seconds)
        self._fsync_failed.value += failed

    def audit_lost(self, lines: int) -> None:
        """So many lines of the audit log could not be written."""
        self._audit_lost.value += lines

    def spans(self, outcome: str, count: int) -> None:
        """So many spans were "exported", "failed" or "dropped"; from one thread alone."""
        self._spans[outcome].value += count

    def read(self, state: State) -> None:
        """Has what the parts say of themselves read when somebody asks."""
        self._exposition.add(state, look=state.look)

    async def text(self, accept: str) -> tuple[bytes, str]:
        """See Exposition."""
        return await self._exposition.text(accept)

    def close(self) -> None:
        """Ends its timer and its thread."""
        self._lag.close()
        self._exposition.close()

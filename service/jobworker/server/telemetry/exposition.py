"""The metrics as text. Values are read on the event loop's thread, which alone changes them; the text, which takes
longer, is made in another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import exposition
from prometheus_client.gc_collector import GCCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from jobworker.server.threads import StartedPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client.core import Metric

# However often somebody asks, so much lies between two texts of a form: both together take a tenth of a CPU or so.
_SPACING_SECONDS = 0.25
_OPENMETRICS = "application/openmetrics-text"


class Collector(Protocol):
    """What gives metrics."""

    def collect(self) -> Iterable[Metric]: ...


class Exposition:
    """Renders the metrics of its collectors, and those of the process."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)  # lists the process's descriptors, so it is asked in the thread
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._looks: list[Callable[[], Awaitable[None]]] = []
        self._coming: dict[str, asyncio.Task[bytes]] = {}  # by content type: to be made, and not begun
        self._began: dict[str, float] = {}
        self._thread = StartedPool(1, name="metrics")

    def add(self, collector: Collector, *, look: Callable[[], Awaitable[None]] | None = None) -> None:
        """One more collector; `look` is awaited before it is asked."""
        if look is not None:
            self._looks.append(look)
        self._registry.register(collector)

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The text, and its content type: OpenMetrics where `accept` names it, else Prometheus' own form.

        It is made after the question. Who asks while one is still to be made gets that one.
        """
        kind = openmetrics.CONTENT_TYPE_LATEST if _OPENMETRICS in accept else exposition.CONTENT_TYPE_PLAIN_0_0_4
        coming = self._coming.get(kind)
        if coming is None:
            coming = self._coming[kind] = asyncio.create_task(self._make(kind))
        return await asyncio.shield(coming), kind

    async def _make(self, kind: str) -> bytes:
        wait = self._began.get(kind, -_SPACING_SECONDS) + _SPACING_SECONDS - self._clock()
        if wait > 0:
            await asyncio.sleep(wait)
        del self._coming[kind]
        self._began[kind] = self._clock()
        for look in self._looks:
            await look()
        families = list(self._registry.collect())
        encode = _openmetrics if kind == openmetrics.CONTENT_TYPE_LATEST else _plain
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._render, families, encode)

    def _render(self, families: list[Metric], encode: Callable[[Any], bytes]) -> bytes:
        return encode(_Families([*families, *self._process.collect()]))

    def close(self) -> None:
        """Ends the thread, and what waits."""
        for coming in self._coming.values():
            coming.cancel()
        self._thread.shutdown()


def _plain(collector: Any) -> bytes:
    return exposition.generate_latest(collector)


def _openmetrics(collector: Any) -> bytes:
    text: bytes = openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]  # it has no types
    return text


class _Families:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families

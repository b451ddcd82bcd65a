"""The service's own log: JSON lines into `<logs>/service.jsonl`, readable lines on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import structlog
from structlog.processors import NAME_TO_LEVEL

from jobworker.server.telemetry.logfile import RotatedFile
from jobworker.server.telemetry.writer import Writer

FILE = "service.jsonl"


class Level:
    """The least level that is written; may be changed at any time."""

    def __init__(self, name: str) -> None:
        self.configure(name)

    def configure(self, name: str) -> None:
        """Takes effect on the next line: debug, info, warning or error."""
        self._least = NAME_TO_LEVEL[name]

    @property
    def is_debug(self) -> bool:
        """Everything is written."""
        return self._least <= NAME_TO_LEVEL["debug"]

    def __call__(
        self, _logger: object, name: str, event_dict: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Drops what is below."""
        if NAME_TO_LEVEL[name] < self._least:
            raise structlog.DropEvent
        return event_dict


class _Shown:
    """Has the values say what people know: folders by the names that were configured."""

    def __init__(self, shown: Callable[[str], str]) -> None:
        self._shown = shown

    def __call__(
        self, _logger: object, _name: str, event_dict: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        for key, value in event_dict.items():
            if isinstance(value, str | PurePath):
                event_dict[key] = self._shown(str(value))
        return event_dict


class _Context:
    """Adds what the line does not say itself: whose call it is written for, and the trace of its batch."""

    def __init__(self, fields: Callable[[], Mapping[str, object]]) -> None:
        self._fields = fields

    def __call__(
        self, _logger: object, _name: str, event_dict: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        for key, value in self._fields().items():
            if event_dict.get(key) is None:
                event_dict[key] = value
        batch = event_dict.get("correlation_id")
        if isinstance(batch, str):
            event_dict["trace_id"] = batch.replace("-", "")
        return event_dict


@dataclass(frozen=True, slots=True)
class ServiceLog:
    """The log: `logger` writes into it."""

    logger: structlog.typing.FilteringBoundLogger
    writer: Writer


def _whole(
    _logger: object, _name: str, event_dict: structlog.typing.EventDict
) -> tuple[tuple[structlog.typing.EventDict], dict[str, object]]:
    return (event_dict,), {}


def open_log(
    folder: Path,
    *,
    level: Level,
    max_bytes: int,
    files: int,
    fields: Callable[[], Mapping[str, object]] = dict,
    shown: Callable[[str], str] = str,
) -> ServiceLog:
    """A log that has what `level` says, in a file of `max_bytes` and `files` older ones.

    Every line has timestamp (RFC 3339, UTC), level and event, and what `fields` says of the call under way.
    `shown`: makes of a value what people are to read.

    Raises:
        OSError: the file cannot be opened.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = RotatedFile(folder / FILE, max_bytes=max_bytes, files=files)
    writer = Writer(file=file, terminal_fd=sys.stderr.fileno())
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        writer,
        processors=[
            level,
            _Context(fields),
            _Shown(shown),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _whole,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        cache_logger_on_first_use=True,
    )
    return ServiceLog(logger, writer)

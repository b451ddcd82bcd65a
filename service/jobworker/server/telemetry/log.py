"""What the parts of the server need of a logger; structlog's bound loggers have it."""

from __future__ import annotations

from typing import Any, Protocol


class Log(Protocol):
    """A structured logger: an event in words, and fields."""

    def debug(self, event: str, *args: Any, **fields: Any) -> Any: ...

    def info(self, event: str, *args: Any, **fields: Any) -> Any: ...

    def warning(self, event: str, *args: Any, **fields: Any) -> Any: ...

    def error(self, event: str, *args: Any, **fields: Any) -> Any: ...

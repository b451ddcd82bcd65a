"""Writes log lines in a thread of its own: a slow or full disk, or a terminal that takes nothing, costs lines and never
the service's time. Knows structlog's renderers and no levels."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import structlog

from jobworker.server.telemetry.logfile import RotatedFile
from jobworker.server.threads import started

_READABLE = structlog.dev.ConsoleRenderer(colors=False)
_JSON = structlog.processors.JSONRenderer()
# What would steer the terminal that shows a line: C0 and C1 without tab and line feed, DEL, and what turns the
# direction of writing (Unicode Standard Annex 9). Values come from clients.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_LINES_MOST = 20_000  # waiting; more are lost, and counted
_LINES_AT_ONCE = 500
# A line is on its way for so long at the least: many are written together, and the loop is not disturbed for each.
_COLLECT_SECONDS = 0.005
# pipe(7): so many bytes go at once into a pipe that poll says takes some.
_PIPE_BUF = 4096
_TERMINAL_WAIT_MS = 100
_CLOSE_SECONDS = 2.0


class Writer:
    """`put` on any thread; `close` at the end."""

    def __init__(self, *, file: RotatedFile, terminal_fd: int) -> None:
        self._file = file
        self._terminal = _Terminal(terminal_fd)
        self._queue: deque[dict[str, Any]] = deque()
        self._some = threading.Event()
        self.lost = 0  # lines that are not in the file, and of which it does not tell yet
        self._closing = self._reopen = False
        self._thread = started(self._run, name="log")

    def msg(self, event_dict: dict[str, Any]) -> None:
        """Has an event written; it must not be changed any more."""
        if len(self._queue) >= _LINES_MOST:
            self.lost += 1
            return
        self._queue.append(event_dict)
        if not self._some.is_set():
            self._some.set()

    debug = info = warning = error = critical = exception = msg

    def configure(self, *, max_bytes: int, files: int) -> None:
        """Takes other bounds of the file."""
        self._file.max_bytes, self._file.files = max_bytes, files

    def reopen(self) -> None:
        """Leaves the file to whoever has renamed it, even if there is nothing to write."""
        self._reopen = True
        self._some.set()

    def close(self) -> None:
        """Writes what there is, for two seconds at the most."""
        self._closing = True
        self._some.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not (self._closing and not self._queue):
            self._some.wait()
            if not self._closing:
                time.sleep(_COLLECT_SECONDS)
                self._some.clear()
            if self._reopen:
                self._reopen = False
                self._to_file(b"", 0)
            while piece := self._taken():
                self._write(piece)

    def _taken(self) -> list[dict[str, Any]]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), _LINES_AT_ONCE))]

    def _write(self, events: list[dict[str, Any]]) -> None:
        lines = [_json_line(event) for event in events]
        self._to_file(b"".join(lines), len(lines))
        self._terminal.write([_readable_line(event) for event in events])

    def _to_file(self, lines: bytes, count: int) -> None:
        if lost := self.lost:
            lines = _loss(lost) + lines
        try:
            self._file.write(lines)
        except OSError:
            self.lost += count
        else:
            self.lost -= lost


class _Terminal:
    """Takes what it can, without waiting long."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._stuck = False
        self._skipped = 0

    def write(self, lines: list[bytes]) -> None:
        """Writes lines, or passes over those for which there is no room."""
        for some in _pieces(lines):
            if self._skipped and self._takes():
                self._put(b"... %d lines are in the log file alone\n" % self._skipped)
                self._skipped = 0
            if not self._put(b"".join(some)):
                self._skipped += len(some)

    def _put(self, line: bytes) -> bool:
        for begin in range(0, len(line), _PIPE_BUF):
            if not self._takes():
                return False
            try:
                self._write_all(line[begin : begin + _PIPE_BUF])
            except OSError:
                return False
        return True

    def _write_all(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[os.write(self._fd, view) :]

    def _takes(self) -> bool:
        try:
            events = self._poll.poll(0 if self._stuck else _TERMINAL_WAIT_MS)
        except OSError:  # ENOMEM
            return False
        takes = any(event & select.POLLOUT for _, event in events)
        self._stuck = not takes
        return takes


def _pieces(lines: list[bytes]) -> Iterator[list[bytes]]:
    """As many lines at a time as fit into PIPE_BUF, or one."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        size += len(line)
        if some and size > _PIPE_BUF:
            yield some
            some, size = [], len(line)
        some.append(line)
    if some:
        yield some


def _json_line(event: dict[str, Any]) -> bytes:
    line = _JSON(None, "", dict(event))
    return (line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace")) + b"\n"


def _readable_line(event: dict[str, Any]) -> bytes:
    text = _CONTROL.sub(_escaped, _READABLE(None, "", dict(event)))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _loss(lines: int) -> bytes:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    return _json_line({"lines": lines, "level": "error", "timestamp": f"{at}Z", "event": "log lines were lost"})

"""Wakes whoever waits for a log to grow: one inotify instance for the whole process, one watch a file.

One instance, because fs.inotify.max_user_instances is 128 (inotify(7)). Knows descriptors and callbacks, not what is in
the files.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from inotify_simple import INotify, flags, parse_events

from jobworker.server.errors import ExhaustedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_READ_BYTES = 1 << 16  # 4,096 events: those on a file itself carry no name, 16 bytes each


class Watch:
    """Calls back, on the event loop, after a watched file was written to. Use on the loop's own thread."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inotify = INotify(nonblocking=True)
        self._wakes: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._inotify.fileno(), self._drain)

    def add(self, descriptor: int, wake: Callable[[], None]) -> int:
        """Watches the open file `descriptor`; each file once. Returns the watch's number, for `remove`.

        `wake` may come once for many writes, and when nothing was written.

        Raises:
            ExhaustedError: fs.inotify.max_user_watches is reached.
        """
        try:
            # By the descriptor: the path may change at any moment, when the batch's folder moves.
            number: int = self._inotify.add_watch(f"/proc/self/fd/{descriptor}", flags.MODIFY)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ExhaustedError(
                "too many logs are followed at once (fs.inotify.max_user_watches)",
                subject="service",
                retry_after_seconds=5,
            ) from error
        self._wakes[number] = wake
        return number

    def remove(self, number: int) -> None:
        """Ends a watch; call it while the file is still open."""
        del self._wakes[number]
        self._inotify.rm_watch(number)

    def close(self) -> None:
        """Ends all watches."""
        self._loop.remove_reader(self._inotify.fileno())
        self._wakes.clear()
        self._inotify.close()

    def _drain(self) -> None:
        try:
            events = parse_events(os.read(self._inotify.fileno(), _READ_BYTES))
        except BlockingIOError:
            return
        if any(event.mask & flags.Q_OVERFLOW for event in events):
            # The kernel dropped events, and does not say whose: fs.inotify.max_queued_events.
            numbers = set(self._wakes)
        else:
            numbers = {event.wd for event in events}
        for number in numbers:
            # None: removed since; its events (IN_IGNORED, last writes) were still queued.
            wake = self._wakes.get(number)
            if wake is not None:
                wake()

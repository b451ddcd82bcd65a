"""The upkeep of the connection: opened, and again after its end; read when there is something, and what is due is sent.
Where the machine is short of something, it comes back to it later: no error but the connection's own end ends it.
"""

import errno
from typing import Callable, Optional

from . import protocol
from .outbox import Outbox
from .session import Session
from .timers import Timers
from .watch import Watch

_AGAIN_SECONDS = 0.2  # also for a server that refused us, and would be asked again and again
_REPORT_SECONDS = 0.005  # a quick job ends within it, and its end tells its start as well
_ENDED = (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET)


class Link:
    """Wired by `main`, which sets `session`."""

    session: Session

    def __init__(
        self,
        *,
        outbox: Outbox,
        timers: Timers,
        watch: Watch,
        clock: Callable[[], float],
        gone: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """`gone`: the connection has ended for good."""
        self._outbox = outbox
        self._timers = timers
        self._watch = watch
        self._clock = clock
        self._gone = gone
        self._say = say
        self._told = ""
        self._fd = -1
        self._readable = False
        self._writable = False  # it waits to be
        self._reports_due: Optional[float] = None

    @property
    def is_over(self) -> bool:
        """There is no connection, and will be none."""
        return self._fd < 0 and not self.session.reopens

    def open(self) -> None:
        """Now, or as soon as there is a server."""
        fd = None
        try:
            fd = self.session.open()
        except OSError as error:
            self._complain(error)
        if fd is None:
            self._timers.at(self._clock() + _AGAIN_SECONDS, self.open)
            return
        self._fd = fd
        self._writable = False
        self._listen()

    def read(self) -> None:
        """Takes what the server sent, if it did."""
        if not self._readable:
            return
        self._readable = False
        try:
            self.session.read()
        except EOFError:
            self._close()
        except OSError as error:
            self._complain(error)
            if error.errno in _ENDED:
                self._close()
            else:
                # It would be readable all the time.
                self._watch.remove(self._fd)
                self._timers.at(self._clock() + _AGAIN_SECONDS, self._listen)
        else:
            self._told = ""

    def report_soon(self) -> None:
        """There is something to tell, which may wait for more."""
        if self._reports_due is None:
            self._reports_due = self._clock() + _REPORT_SECONDS

    def due(self) -> Optional[float]:
        """When to send; None: nothing waits, or it waits for the server."""
        return None if self._writable else self._reports_due

    def flush(self) -> None:
        """Sends what is to be sent now."""
        due = self._reports_due is not None and self._clock() >= self._reports_due
        try:
            done = self._outbox.flush(due=due)
        except OSError as error:
            if error.errno not in _ENDED:
                self._complain(error)
            # An end is told by reading, and the next server sees all in its snapshot.
            self._reports_due = self._clock() + _AGAIN_SECONDS
            return
        if due:
            self._reports_due = None if done else self._clock() + protocol.CROWDED_RETRY_SECONDS
        if not done and self._outbox.crowded:
            # It is writable all the time: too many descriptors are in flight, or there is none for a large message.
            self._timers.at(self._clock() + protocol.CROWDED_RETRY_SECONDS, lambda: None)
        elif done == self._writable and self._fd >= 0:
            self._wait_for_room(not done)

    def _wait_for_room(self, wait: bool) -> None:
        try:
            self._watch.change(self._fd, writable=wait)
        except OSError:
            self._timers.at(self._clock() + protocol.CROWDED_RETRY_SECONDS, lambda: None)
        else:
            self._writable = wait

    def _listen(self) -> None:
        if self._fd < 0:
            return
        try:
            self._watch.add(self._fd, self._has_news)
            self._writable = False
        except OSError as error:
            self._complain(error)
            self._timers.at(self._clock() + _AGAIN_SECONDS, self._listen)

    def _has_news(self) -> None:
        self._readable = True

    def _close(self) -> None:
        self._watch.remove(self._fd)
        self._fd = -1
        self.session.close()
        if self.session.reopens:
            self._timers.at(self._clock() + _AGAIN_SECONDS, self.open)
        else:
            self._gone()  # its other end is with the supervisor

    def _complain(self, error: OSError) -> None:
        why = error.strerror or str(error)
        if why != self._told:
            self._told = why
            self._say(f"the connection to the server: {why}; it is tried again")

"""What the server is to be told: starts, ends, and each end again until the server has it. It sends through a
Connection and knows no processes.
"""

import itertools
from collections import deque
from typing import Container, Deque, Dict, Iterable, List, Optional

from . import protocol
from .protocol import End, Message, Started

_REPORTS = 500  # per message: some 200 KB of ends


class Outbox:
    """Reports gather until `flush`, so that a round of many ends is one message."""

    def __init__(self) -> None:
        self.kept: Dict[str, End] = {}  # every end that is not acknowledged
        self.crowded = False
        self._connection: Optional[protocol.Connection] = None
        self._attached = False
        self._features: Container[str] = ()
        self._messages: Deque[Message] = deque()
        self._started: Dict[str, Started] = {}
        self._ended: List[End] = []
        self._urgent = False

    def connect(self, connection: Optional[protocol.Connection]) -> None:
        """Another way to a server, or none; nobody is attached."""
        self._connection = connection
        self.detach()

    def detach(self) -> None:
        """Nothing that was not sent is for the next server: its snapshot will hold it."""
        self._attached = False
        self._messages.clear()
        self._started = {}
        self._ended = []
        self._urgent = False

    def attach(
        self, hello: Message, waiting: Iterable[str], running: Iterable[Started], features: Container[str]
    ) -> None:
        """Begins a session with what a new server must know. `features`: of that server."""
        self.detach()
        self._attached = True
        self._features = features
        self._messages.append(hello)
        held, starts, ends = list(waiting), list(running), list(self.kept.values())
        count = max(len(held), len(starts), len(ends), 1)
        for at in range(0, count, _REPORTS):
            self._messages.append(
                {
                    "m": "snapshot",
                    "waiting": held[at : at + _REPORTS],
                    "running": starts[at : at + _REPORTS],
                    "ended": ends[at : at + _REPORTS],
                    "last": at + _REPORTS >= count,
                }
            )

    def say(self, message: Message) -> None:
        """Any other message."""
        self._messages.append(message)

    def short(self, message: Message) -> None:
        """What the service is short of, or was."""
        if self._attached and "short" in self._features:
            self.say({"m": "short", **message})

    def started(self, started: Started) -> None:
        """A job runs."""
        if self._attached:
            self._started[started["id"]] = started

    def ended(self, end: End, *, urgent: bool) -> None:
        """A job is over. The end is kept. One that is not urgent may go out with the starts."""
        self.kept[end["id"]] = end
        if self._attached:
            # An end holds all that a start has; one message less for each job that is quick.
            self._started.pop(end["id"], None)
            self._ended.append(end)
            self._urgent = self._urgent or urgent

    def acknowledge(self, ids: Iterable[str]) -> None:
        """The server has these ends."""
        for name in ids:
            self.kept.pop(name, None)

    def flush(self, *, due: bool) -> bool:
        """Sends what is urgent, or, when due, everything; False: not all of it, now.

        Raises:
            OSError: the peer is gone.
        """
        connection = self._connection
        if connection is None:
            return True
        while self._messages:
            if not connection.send(self._messages[0]):
                return self._later(connection)
            self._messages.popleft()
        if due:
            while self._started:
                ids = list(itertools.islice(self._started, _REPORTS))
                if not connection.send({"m": "started", "jobs": [self._started[name] for name in ids]}):
                    return self._later(connection)
                for name in ids:
                    del self._started[name]
        while self._ended and (due or self._urgent):
            if not connection.send({"m": "ended", "jobs": self._ended[:_REPORTS]}):
                return self._later(connection)
            del self._ended[:_REPORTS]
        self._urgent = False
        return True

    def _later(self, connection: protocol.Connection) -> bool:
        self.crowded = connection.crowded
        return False

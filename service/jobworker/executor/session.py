"""Talks with the server: connections, sessions, and which message asks for what. What is asked is done elsewhere."""

import os
import socket
from typing import Any, Callable, Dict, Iterable, List, Optional, Protocol

from . import protocol
from .connector import ServerConnector
from .outbox import Outbox
from .protocol import Connection, Message, Started, close_all
from .startflags import StartFlags

_MESSAGES_PER_ROUND = 16


class Worker(Protocol):
    """What a server may ask for."""

    def receivable(self) -> int:
        """How many descriptors may come with the next message."""

    def start(self, orders: List[Any], fds: List[int]) -> None:
        """Takes over the descriptors."""

    def start_some(self, orders: List[Any], fds: List[int]) -> None:
        """The same, of orders whose last descriptors were lost on the way."""

    def stop(self, ids: Iterable[str], reason: str, grace_seconds: Optional[float]) -> None:
        """Ends jobs; unknown ones are none of its business."""

    def over(self, batches: Iterable[str]) -> None:
        """No job of these starts any more."""

    def unfinished(self, batches: Iterable[str]) -> None:
        """No job of any other starts any more."""

    def settle(self) -> List[Started]:
        """Brings every order whose turn it is to a start or an end; the jobs that run."""

    def waiting(self) -> List[str]:
        """The orders whose turn it is not."""


class Session:
    """One connection at a time, and on it one server after another."""

    def __init__(
        self,
        *,
        fd: Optional[int],
        connector: Optional[ServerConnector],
        info: Callable[[], Dict[str, Any]],
        epoch: str,
        outbox: Outbox,
        worker: Worker,
        flags: StartFlags,
        say: Callable[[str], None],
    ) -> None:
        """`fd`: a socket for good; or `connector`: where to connect when there is a server. `info`: what hello says."""
        self._fd = fd
        self._connector = connector
        self._info = info
        self._epoch = epoch
        self._outbox = outbox
        self._worker = worker
        self._flags = flags
        self._say = say
        self._socket: Optional[socket.socket] = None
        self._connection: Optional[Connection] = None
        self._attached = False

    def open(self) -> Optional[int]:
        """Connects and says hello. The descriptor to watch, or None: there is no server now."""
        sock = socket.socket(fileno=self._fd) if self._connector is None else self._connector.connect()
        if sock is None:
            return None
        self._socket = sock
        self._connection = Connection(sock)
        self._attached = False
        self._outbox.connect(self._connection)
        self._outbox.say(self._hello(None))
        return sock.fileno()

    @property
    def reopens(self) -> bool:
        """Another connection may follow this one."""
        return self._connector is not None

    def order_again(self) -> None:
        """Has the server attach once more, see the snapshot, and order what is in it no more."""
        if self._attached:
            self._outbox.say(self._hello(None))

    def close(self) -> None:
        """The connection has ended."""
        self._outbox.connect(None)
        self._attached = False
        if self._socket is not None:
            self._socket.close()
        self._socket = self._connection = None

    def read(self) -> None:
        """Takes what the server sent, a bounded piece of it.

        Raises:
            EOFError: the connection ended, and all that came over it was taken.
            OSError: nothing can be received now.
        """
        for _ in range(_MESSAGES_PER_ROUND):
            if self._connection is None:
                return
            try:
                received = self._connection.receive(self._worker.receivable())
            except protocol.DescriptorsLostError as error:
                self._incomplete(error)
                continue
            except protocol.ProtocolError as error:
                self._damaged(error)
                continue
            if received is None:
                return
            self._take(*received)

    def _take(self, message: Message, fds: List[int]) -> None:
        kind = message.get("m")
        try:
            if kind == "attach":
                if self._connector is not None and message.get("lock") and fds:
                    self._connector.hold(fds.pop())
                close_all(fds)
                self._attach(message)
            elif not self._attached:
                close_all(fds)  # of a server that talked to an earlier executor
            elif kind == "start":
                self._start(message, fds)
            elif kind == "flags" and message.get("epoch") == self._epoch and fds:
                self._flags.hold(fds.pop())
                close_all(fds)
            else:
                close_all(fds)
                self._other(kind, message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._complain(f"a {kind} message is malformed: {type(error).__name__}: {error}")

    def _start(self, message: Message, fds: List[int]) -> None:
        orders = message.get("orders")
        if message.get("epoch") != self._epoch or not isinstance(orders, list):
            close_all(fds)
            return
        self._worker.start(orders, fds)

    def _other(self, kind: Any, message: Message) -> None:
        if kind == "stop":
            grace = message.get("grace")
            reason = str(message.get("reason", protocol.CANCELLED))
            self._worker.stop(message["ids"], reason, None if grace is None else float(grace))
        elif kind == "ack":
            self._outbox.acknowledge(message["ids"])
        elif kind == "over":
            self._worker.over(message["batches"])
        elif kind == "batches":
            self._worker.unfinished(message["ids"])
        else:
            self._complain(f"unknown message: {kind!r}")

    def _attach(self, message: Message) -> None:
        if message["v"] != protocol.VERSION:
            self._complain(f"version {message['v']} of the protocol is not spoken here, only {protocol.VERSION}")
            return
        session = str(message["session"])
        # The orders before this message are the old server's. What became of them must be in the snapshot.
        running = self._worker.settle()
        self._flags.begin_session()
        self._attached = True
        features = message.get("features") or ()
        self._outbox.attach(self._hello(session), self._worker.waiting(), running, features)

    def _hello(self, session: Optional[str]) -> Message:
        return {
            "m": "hello",
            "v": protocol.VERSION,
            "epoch": self._epoch,
            "session": session,
            "pid": os.getpid(),
            "features": protocol.FEATURES,
            **({} if self._connector is None else {"key": self._connector.key}),
            **self._info(),
        }

    def _damaged(self, error: protocol.ProtocolError) -> None:
        self._complain(str(error))
        message = error.message
        if message is not None and message.get("m") == "attach" and self._connector is not None:
            raise EOFError  # the lock was lost on the way: it must not be missing, so come again

    def _incomplete(self, error: protocol.DescriptorsLostError) -> None:
        message, fds = error.message, error.fds
        if message is None:
            self._damaged(error)
            self.order_again()
        elif message.get("m") == "start" and self._attached and message.get("epoch") == self._epoch:
            orders = message.get("orders")
            if isinstance(orders, list):
                self._worker.start_some(orders, fds)
            else:
                close_all(fds)
        else:
            close_all(fds)
            self._damaged(error)

    def _complain(self, detail: str) -> None:
        self._say(f"protocol error: {detail}")
        self._outbox.say({"m": "error", "detail": detail})

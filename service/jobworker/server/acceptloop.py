"""Takes connections from a listening socket and hands each, once it says something, to a protocol; TLS in between where
that is wanted. Until the protocol admits it a connection is a stranger's: of these there are few (strangers.py), and
none lives long. Knows no HTTP.

asyncio's own servers accept all that come, until no descriptor is left for anything else, and give each its buffers for
TLS before it has said a word.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobworker.server.handshakes import Refusals, why
from jobworker.server.strangers import Strangers, site_of

if TYPE_CHECKING:
    from jobworker.server.telemetry.log import Log

# In one turn of the event loop; those that were taken before have theirs in between.
_AT_ONCE = 16
# accept(2): nothing is left for one more connection, for the moment.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_SECONDS = 0.1
# Nobody is sent away sooner: an honest client has made its handshake by then. Who comes meanwhile waits to be taken.
_GRACE_SECONDS = 0.05
_TELL_SECONDS = 10.0  # between two lines in the log
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: who was sent away costs the kernel nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """`strangers` at a time, half of them of one address, and each for `seconds`."""

    strangers: int
    seconds: float


class Arrival:
    """A connection on its way in. The protocol says when it is `admitted`, and that it has `left`."""

    __slots__ = ("_loop", "address", "came_at", "sock", "timer", "transport")

    def __init__(self, loop: AcceptLoop, sock: socket.socket, address: str, came_at: float) -> None:
        self._loop = loop
        self.sock = sock
        self.address = address
        self.came_at = came_at
        self.timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.WriteTransport | None = None  # what the protocol writes to, once there is one

    def admitted(self) -> None:
        """It is known whose it is: nothing here ends it any more."""
        self._loop.forget(self)

    left = admitted  # it is over

    def end(self) -> None:
        """Ends it, wherever it is."""
        with suppress(OSError):  # over already
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        if self.transport is not None:
            self.transport.abort()
        else:
            with suppress(OSError):  # the event loop reads the end of it, in the middle of a handshake say
                self.sock.shutdown(socket.SHUT_RDWR)


class AcceptLoop:
    """`start`, then `close`. On the event loop alone."""

    def __init__(
        self,
        *,
        protocol: Callable[[Arrival], asyncio.BaseProtocol],
        limits: StrangerLimits,
        log: Log,
        name: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`name` is the listener's, for the log; `tls` may be set to another one, for connections that come then."""
        self._protocol = protocol
        self._seconds = limits.seconds
        self._strangers: Strangers[Arrival] = Strangers(most=limits.strangers)
        self._silent: set[Arrival] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log
        self._name = name
        self._failed = Refusals(log=log, listener=name, words="handshakes failed")
        self.tls = tls
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._sent_away = 0
        self._told_at = float("-inf")

    def start(self, listening: socket.socket) -> None:
        """Takes connections of a socket that listens, and owns it from here on."""
        listening.setblocking(False)
        self._listening = listening
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Closes the port, and the connections that are still strangers."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        while (stranger := self._strangers.worst()) is not None:
            self._send_away(stranger)
        self._failed.close()

    def forget(self, arrival: Arrival) -> None:
        """It is not a stranger any more."""
        self._strangers.remove(arrival)
        if arrival.timer is not None:
            arrival.timer.cancel()
            arrival.timer = None

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._listening is None:
                return
            try:
                sock, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted(error)
                return  # what was wrong with that connection (accept(2), "Error handling")
            sock.setblocking(False)
            if not self._take(sock, address[0]):
                return

    def _take(self, sock: socket.socket, address: str) -> bool:
        """Takes one more, and sends away whoever is too many; False: nobody else is taken for now."""
        site = site_of(address)
        arrival = Arrival(self, sock, address, self._loop.time())
        self._strangers.add(arrival, site)
        arrival.timer = self._loop.call_later(self._seconds, self._send_away, arrival)
        self._silent.add(arrival)
        self._loop.add_reader(sock, self._listen_to, arrival)
        while (surplus := self._strangers.surplus(site)) is not None:
            # What it said may wait to be read since this turn began.
            if surplus in self._silent and self._listen_to(surplus):
                continue
            left = surplus.came_at + _GRACE_SECONDS - self._loop.time()
            if left > 0:
                self._wait(left)
                return False
            self._sent_away += 1
            self._send_away(surplus)
            self._tell("too many connections without a request so far; some were closed")
        return True

    def _listen_to(self, arrival: Arrival) -> bool:
        """Hands a connection on once it said something; False: it has not."""
        try:
            said = arrival.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            said = b""
        if not said:  # it is gone
            self._send_away(arrival)
            return True
        self._stop_listening_to(arrival)
        self._strangers.spoke(arrival)
        task = self._loop.create_task(self._hand_on(arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _hand_on(self, arrival: Arrival) -> None:
        if arrival.sock.fileno() < 0:
            return  # sent away before this ran
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(arrival),
                arrival.sock,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else self._seconds,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is one
            if self.tls is not None and isinstance(error, (ssl.SSLError, TimeoutError)):
                self._failed.add(arrival.address, why(error))
            self.forget(arrival)
            arrival.sock.close()

    def _send_away(self, arrival: Arrival) -> None:
        self.forget(arrival)
        silent = arrival in self._silent
        self._stop_listening_to(arrival)
        arrival.end()
        if silent:
            arrival.sock.close()

    def _stop_listening_to(self, arrival: Arrival) -> None:
        if arrival in self._silent:
            self._silent.discard(arrival)
            self._loop.remove_reader(arrival.sock)

    def _exhausted(self, error: OSError) -> None:
        """A stranger's descriptor may do; if not, some other connection ends in a while."""
        if (stranger := self._strangers.worst()) is not None:
            self._sent_away += 1
            self._send_away(stranger)
        self._wait(_EXHAUSTED_SECONDS)
        self._tell(f"no connection can be taken: {error.strerror}")

    def _wait(self, seconds: float) -> None:
        """Takes nobody for so long."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._pause = self._loop.call_later(seconds, self._loop.add_reader, self._listening, self._accept)

    def _tell(self, words: str) -> None:
        now = self._loop.time()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._log.warning(words, listener=self._name, closed=self._sent_away)
            self._sent_away = 0

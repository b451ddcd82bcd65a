"""Who may have connections to the gRPC port, and how many: strangers as few as fit, clients a share each.

gRPC makes the handshakes, with a time limit and a limit of connections in all; that limit alone one stranger could use
up. So connections are counted here by address until a call comes over them, and then by the user that their certificate
names. Where strangers are too many, those go that have said nothing, the oldest first, of the address that has most: an
honest client says hello at once, calls a moment later, and stays.

Woken by each connection that comes, and not more often than a look at all sockets is cheap.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobworker.server.errors import ExhaustedError
from jobworker.server.rpc.departures import Departures
from jobworker.server.rpc.sockets import PortSockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobworker.server.rpc.memory import MemoryTrim
    from jobworker.server.rpc.sockets import Connection
    from jobworker.server.telemetry.log import Log

_LOOK_SECONDS = 0.02  # between two looks, or ...
_LOOK_SHARE = 10  # ... so many times as long as the last one took, if that is longer, and ...
_MOST_LOOK_SECONDS = 0.2  # ... no longer than this: one that took long had to wait for others on a busy machine
_TELL_SECONDS = 10.0  # between two lines in the log on the same trouble
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """`total`: connections at a time, of which gRPC keeps to itself what is more. `strangers`: without a call so far,
    half of them of one address. `per_client`: of one user's certificates. `handshake_seconds`: until the handshake is
    made."""

    total: int = 4000
    strangers: int = 1000
    per_client: int = 100
    handshake_seconds: float = 10.0


@dataclass(slots=True, eq=False)
class KnownConnection:
    """A connection over which calls have come; `begin` and `end` with each."""

    peer: str
    client: str
    inode: int | None = None  # as soon as its socket was seen
    calls: int = 0
    last_look: int = 0  # when its last call came

    def begin(self) -> None:
        """A call is under way."""
        self.calls += 1

    def end(self) -> None:
        """It is over."""
        self.calls -= 1


@dataclass(slots=True)
class _Closed:
    """What is to be told in the log."""

    strangers: int = 0
    hosts: set[str] = field(default_factory=set)


class Connections:
    """`open` once gRPC listens; `admit` at each call; `close`."""

    def __init__(
        self, *, limits: ConnectionLimits, memory: MemoryTrim, log: Log, without_call: Callable[[], None]
    ) -> None:
        """`without_call` is told of each connection that ended and was for nothing."""
        self._limits = limits
        self._memory = memory
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.departures = Departures(count=without_call, log=log)
        self._sockets = PortSockets(0)
        self._known: dict[str, KnownConnection] = {}
        self._clients: dict[str, dict[str, KnownConnection]] = {}
        self._arrivals: select.epoll | None = None
        self._listening: list[int] = []
        self._looks = 0
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = _Closed()
        self._told_at = float("-inf")
        self.closed_strangers = 0

    async def open(self, port: int) -> None:
        """From here on connections to the port are counted."""
        self._sockets = PortSockets(port)
        self.departures.open(port)
        # A second descriptor of the socket that gRPC listens on, edge-triggered: readable when one more has come.
        self._arrivals = select.epoll()
        self._listening = await self._sockets.listening()
        for listening in self._listening:
            self._arrivals.register(listening, select.EPOLLIN | select.EPOLLET)
        self._loop.add_reader(self._arrivals.fileno(), self._arrived)

    async def close(self) -> None:
        """Nothing is counted any more. Before gRPC closes the port: it stays open as long as we have it too."""
        self.departures.close()
        if self._arrivals is not None:
            self._loop.remove_reader(self._arrivals.fileno())
            self._arrivals.close()
            self._arrivals = None
        for listening in self._listening:
            os.close(listening)
        self._listening.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def of(self, peer: str) -> KnownConnection | None:
        """The connection from `peer`; None: it has to be admitted first."""
        known = self._known.get(peer)
        if known is not None:
            known.last_look = self._looks
        return known

    async def admit(self, peer: str, client: str) -> KnownConnection:
        """Takes a connection for a client's, at its first call. Where the client has too many, the one that has been
        idle longest makes room.

        Raises:
            ExhaustedError: all are in use.
        """
        mine = self._clients.setdefault(client, {})
        if len(mine) >= self._limits.per_client:
            await self.look()  # some may have gone
            if (known := self._known.get(peer)) is not None:
                return known  # another call of it was faster
            mine = self._clients.setdefault(client, {})
        if len(mine) >= self._limits.per_client:
            idle = min((known for known in mine.values() if not known.calls), key=_last_look, default=None)
            if idle is None:
                raise ExhaustedError(
                    f"user {client} has {self._limits.per_client} connections in use",
                    subject=f"user:{client}",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            self._forget(idle)
            connection = self._sockets.connections.get(idle.inode or 0)
            if connection is not None:
                connection.shut()
        known = self._known[peer] = mine[peer] = KnownConnection(peer=peer, client=client, last_look=self._looks)
        return known

    # Looking

    def _arrived(self) -> None:
        if self._arrivals is not None:
            self._loop.remove_reader(self._arrivals.fileno())
            self._look_in(_LOOK_SECONDS)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._begin_look)

    def _begin_look(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._turn())

    async def _turn(self) -> None:
        if self._arrivals is not None:
            self._arrivals.poll(0)  # takes the event: whatever comes from here on is another one
        began = self._loop.time()
        strangers = 1
        try:
            strangers = await self.look()
        except Exception as error:  # no descriptor is left for a look, say
            self._log.error("connections cannot be counted", problem=repr(error))
        took = self._loop.time() - began
        await asyncio.sleep(min(_LOOK_SHARE * took, _MOST_LOOK_SECONDS))
        if self._arrivals is not None:
            self._loop.add_reader(self._arrivals.fileno(), self._arrived)
            if strangers:  # to see them go
                self._look_in(self._limits.handshake_seconds + 1)

    async def look(self) -> int:
        """Counts what there is, and ends what is too much; returns how many strangers are left."""
        async with self._looking:
            self._memory.ended(await self._sockets.look())
            self._match()
            known = {known.inode for known in self._known.values()}
            strangers = [c for inode, c in self._sockets.connections.items() if inode not in known]
            closed = 0
            for connection in too_many(strangers, self._limits.strangers):
                # A call may have come over it just now.
                if connection.peer not in self._known and connection.shut():
                    closed += 1
                    self._closed.strangers += 1
                    self._closed.hosts.add(connection.host)
            self.closed_strangers += closed
            self._tell()
            return len(strangers) - closed

    def _match(self) -> None:
        """Finds the socket of each known connection, and forgets those whose socket is gone."""
        by_peer = {connection.peer: inode for inode, connection in self._sockets.connections.items()}
        for known in tuple(self._known.values()):
            inode = by_peer.get(known.peer)
            # Used since the last look: whatever socket that peer has, the calls came over it.
            if known.calls or known.last_look == self._looks:
                known.inode = inode
            elif inode is None or inode != known.inode:
                self._forget(known)
        self._looks += 1

    def _forget(self, known: KnownConnection) -> None:
        del self._known[known.peer]
        mine = self._clients[known.client]
        del mine[known.peer]
        if not mine:
            del self._clients[known.client]

    def _tell(self) -> None:
        now = self._loop.time()
        if self._closed.strangers and now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            closed, self._closed = self._closed, _Closed()
            self._log.warning(
                "too many connections without a call; some were closed",
                connections=closed.strangers,
                addresses=len(closed.hosts),
                of=sorted(closed.hosts)[:5],
            )


def too_many(strangers: Iterable[Connection], most: int) -> list[Connection]:
    """Which of these, the oldest first, are to go: no address keeps more than half of `most`, nor more than others when
    together they are too many."""
    hosts: defaultdict[str, list[Connection]] = defaultdict(list)
    for connection in strangers:
        hosts[connection.host].append(connection)
    share = _share([len(theirs) for theirs in hosts.values()], most)
    gone: list[Connection] = []
    for theirs in hosts.values():
        gone += _worst(theirs, len(theirs) - share)
    left = sum(len(theirs) for theirs in hosts.values()) - len(gone)
    if left > most:  # more addresses than places
        chosen = set(map(id, gone))
        gone += _worst([c for theirs in hosts.values() for c in theirs if id(c) not in chosen], left - most)
    return gone


def _share(counts: list[int], most: int) -> int:
    """What each address keeps, at the most: half of `most`, or so many that all fit; at least one."""
    share, room = max(1, most // 2), most
    if sum(min(count, share) for count in counts) <= most:
        return share
    for position, count in enumerate(sorted(counts)):
        fair = room // (len(counts) - position)
        if count > fair:
            return max(1, min(share, fair))
        room -= count
    return share


def _worst(theirs: list[Connection], count: int) -> list[Connection]:
    """So many of them: those that said nothing, the oldest first; then the oldest."""
    if count <= 0:
        return []
    silent = []
    for connection in theirs:
        connection.look()
        if not connection.spoke:
            silent.append(connection)
            if len(silent) == count:
                return silent
    spoke = (connection for connection in theirs if connection.spoke)
    return silent + list(itertools.islice(spoke, count - len(silent)))


def _last_look(known: KnownConnection) -> int:
    return known.last_look

"""The executor beside the server: a Worker over its socket. Of the server, this file alone knows executor/protocol.py.

One connection lives in sessions. Each begins with our `attach`; what arrives before the `hello` that answers it was
meant for a server before this one, and is dropped: the snapshot behind that hello tells it all again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from typing import Any

from jobworker.executor import protocol
from jobworker.server.model import JobEnd, LogPolicy
from jobworker.server.scheduling import translate
from jobworker.server.scheduling.startflags import StartFlagFiles, StartFlags
from jobworker.server.scheduling.worker import ExecutorSnapshot, Listener, Order, Short
from jobworker.server.slices import one_slice
from jobworker.server.store.uids import Uids
from jobworker.server.telemetry.log import Log

# Messages taken in one turn of the loop; callers' own work comes between.
_MESSAGES_AT_ONCE = 32
_IDS_AT_ONCE = 1000
# Ends are gathered for so long before they are acknowledged together.
_ACK_SECONDS = 0.02


class LocalWorker:
    """A Worker. `connect` gives it a socket, and again after the connection ended."""

    def __init__(self, *, listener: Listener, flags: StartFlagFiles, uids: Uids, log: Log) -> None:
        self.epoch: str | None = None
        self.short: Short | None = None  # what the executor lacks now
        self.epochs = 0  # executors seen, one after another
        self._last_epoch = ""
        self._listener = listener
        self._log = log
        self._uids = uids
        self._connection: protocol.Connection | None = None
        self._socket: socket.socket | None = None
        self._session = ""
        self._hello: dict[str, Any] | None = None
        self._live = False  # the snapshot of this session is taken
        self._waiting_ids: set[str] = set()
        self._running: dict[str, int] = {}
        self._ended: dict[str, JobEnd] = {}
        self._flag_files = flags
        self._flags: StartFlags | None = None  # of the epoch seen last
        self._never_started: dict[str, str] = {}  # by executors before, of these epochs, and not taken back yet
        self._outbox: deque[tuple[protocol.Message, list[int]]] = deque()
        self._waiting = False
        self._said_no_policies = False  # of this connection
        self._acks: list[str] = []
        self.stopping = asyncio.Event()  # it ends its jobs, and then itself
        self.gone = asyncio.Event()  # there is no connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection, and its end was not seen yet."""
        return self._connection is not None

    def connect(self, sock: socket.socket, *, lock: int | None = None) -> None:
        """Takes a connected socket over, and opens a session on it. `lock`: a descriptor for the executor to hold,
        taken over as well (admission.py)."""
        self.close()
        self._socket = sock
        self._said_no_policies = False
        self.stopping.clear()
        self.gone.clear()
        self._connection = protocol.Connection(sock)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)
        self._attach(lock)

    def close(self) -> None:
        """Lets go of the socket; jobs run on."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = self._connection = None
        self._waiting = False  # for room in a socket that is gone
        self.gone.set()
        self._detach()
        if self._flags is not None and self.stopping.is_set():
            self._flags.close(remove=True)
            self._flags = None

    # -- Worker

    def start(self, orders: list[Order]) -> None:
        message: list[protocol.Order] = []
        fds: list[int] = []
        for order in orders:
            if len(fds) + 3 > protocol.DESCRIPTORS:
                self._send({"m": "start", "epoch": self.epoch, "orders": message}, fds)
                message, fds = [], []
            if order.log_policy is not LogPolicy.END and not self._knows("log_policy"):
                self._say_no_policies()
                order.log_policy = LogPolicy.END
            message.append(translate.order(order, None if self._flags is None else self._flags.give(order.id)))
            if order.stdin is not None:
                fds.append(order.stdin)
            fds += order.logs
        self._send({"m": "start", "epoch": self.epoch, "orders": message}, fds)

    def stop(self, ids: list[str], grace_seconds: float | None, *, interrupt: bool = False) -> None:
        reason = protocol.INTERRUPTED if interrupt else protocol.CANCELLED
        if self.epoch is not None:
            for i in range(0, len(ids), _IDS_AT_ONCE):
                some = ids[i : i + _IDS_AT_ONCE]
                self._send({"m": "stop", "ids": some, "reason": reason, "grace": grace_seconds})

    def uid_of(self, user: str) -> int | None:
        hello = self._hello
        if hello is None or "uids" not in hello:
            return None
        first, last = hello["uids"]
        return self._uids.of(user, first, last)

    def acknowledge(self, ids: list[str], *, at_once: bool = False) -> None:
        # Nobody waits for an acknowledgement, and a message for each quick job would wake the executor twice as often.
        if not self._acks:
            asyncio.get_running_loop().call_later(_ACK_SECONDS, self._send_acks)
        self._acks += ids
        for job_id in ids:
            self._never_started.pop(job_id, None)
            if self._flags is not None:
                self._flags.take_back(job_id)
        if at_once:  # behind the next order of such a job it would be taken for that of its end
            self._send_acks()

    def tell_again(self) -> None:
        if self._live:
            self._attach()

    def over(self, correlation_id: str) -> None:
        if self._live and self._knows("work"):
            self._send({"m": "over", "batches": [correlation_id]})

    def unfinished(self, correlation_ids: list[str]) -> None:
        if self._live and self._knows("work"):
            self._send({"m": "batches", "ids": correlation_ids})

    def _knows(self, feature: str) -> bool:
        """An executor of the release before lacks some, and complains of messages that it does not know."""
        return self._hello is not None and feature in self._hello["features"]

    def _say_no_policies(self) -> None:
        if not self._said_no_policies:
            self._said_no_policies = True
            self._log.warning("the executor is of the release before: of log policies it knows `end` alone")

    def _send_acks(self) -> None:
        ids, self._acks = self._acks, []
        if self._live:
            for i in range(0, len(ids), _IDS_AT_ONCE):
                self._send({"m": "ack", "ids": ids[i : i + _IDS_AT_ONCE]})

    # -- sending

    def _send(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        """Sends now, or behind what waits; the descriptors are closed once sent."""
        self._outbox.append((message, fds or []))
        if not self._waiting:
            self._flush()

    def _flush(self) -> None:
        self._waiting = False
        connection = self._connection
        if connection is None:
            self._drop_outbox()
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(connection.fileno())
        while self._outbox:
            message, fds = self._outbox[0]
            try:
                sent = connection.send(message, fds)
            except OSError as e:
                self._lost_connection(str(e))
                return
            if not sent:
                self._waiting = True
                if connection.crowded:
                    loop.call_later(protocol.CROWDED_RETRY_SECONDS, self._flush)
                else:
                    loop.add_writer(connection.fileno(), self._flush)
                return
            self._outbox.popleft()
            protocol.close_all(fds)

    def _drop_outbox(self) -> None:
        for _, fds in self._outbox:
            protocol.close_all(fds)
        self._outbox.clear()

    # -- receiving

    def _readable(self) -> None:
        is_over = one_slice()
        for _ in range(_MESSAGES_AT_ONCE):
            if self._connection is None or is_over():
                return  # what there is still has us called again
            try:
                received = self._connection.receive()
            except protocol.ProtocolError as e:
                if isinstance(e, protocol.DescriptorsLostError):
                    protocol.close_all(e.fds)
                self._log.error("a message of the executor cannot be read", problem=str(e))
                self._attach()  # whatever it said, the next snapshot says again
                continue
            except (EOFError, OSError) as e:
                if isinstance(e, OSError) and e.errno in protocol.SHORT_OF:
                    self._read_later()
                else:
                    self._lost_connection(str(e))
                return
            if received is None:
                return
            message, fds = received
            protocol.close_all(fds)
            self._take(message)

    def _read_later(self) -> None:
        """Nothing can be received now, and the socket would be readable all the time."""
        connection, loop = self._connection, asyncio.get_running_loop()

        def again() -> None:
            if connection is not None and connection is self._connection:
                loop.add_reader(connection.fileno(), self._readable)

        if connection is not None:
            loop.remove_reader(connection.fileno())
            loop.call_later(protocol.CROWDED_RETRY_SECONDS, again)

    def _take(self, message: protocol.Message) -> None:
        kind = message.get("m")
        if kind == "hello":
            self._take_hello(message)
        elif self._hello is None:
            return
        elif kind == "snapshot":
            self._take_snapshot(message)
        elif not self._live:
            return
        elif kind == "started":
            self._listener.started([(j["id"], j["started"]) for j in message["jobs"]])
        elif kind == "ended":
            knows = self._knows("log_policy")
            self._listener.ended([(e["id"], translate.end(e, knows_policies=knows)) for e in message["jobs"]])
        elif kind == "stopping":
            # It takes no more orders, and has yet to tell the ends of its jobs; or its supervisor says that it is gone.
            self._log.info("the executor stops")
            self.stopping.set()
            self.epoch = None
        elif kind == "short":
            self._take_short(message)
        elif kind == "error":
            self._log.error("the executor met an error", problem=message.get("detail"))

    def _take_snapshot(self, part: protocol.Message) -> None:
        self._waiting_ids.update(part.get("waiting", ()))
        self._running.update({j["id"]: j["started"] for j in part["running"]})
        knows = self._knows("log_policy")
        self._ended.update({e["id"]: translate.end(e, knows_policies=knows) for e in part["ended"]})
        if part["last"]:
            self._attached()

    def _take_short(self, short: dict[str, Any]) -> None:
        """It lacks something, and orders wait for it; or it has it again."""
        self.short = None if short["over"] else Short(what=short["what"], since=short["since"])
        if self.short is not None:
            self._log.warning("orders wait: the executor is short of something", what=self.short.what)
        else:
            seconds = (short["over"] - short["since"]) / 1e9
            self._log.info("the executor has it again", what=short["what"], seconds=round(seconds, 3))

    def _take_hello(self, message: protocol.Message) -> None:
        if message.get("session") is None:
            # It has just started. The one before it is gone, and with it all it had not told.
            self._attach()
        elif message["session"] == self._session:
            if message["v"] != protocol.VERSION:
                self._log.error("the executor speaks another protocol", theirs=message["v"], ours=protocol.VERSION)
                return
            self._hello = message
            if (short := message.get("short")) is not None:
                self.short = Short(what=short["what"], since=short["since"])
            self._waiting_ids, self._running, self._ended = set(), {}, {}

    def _attach(self, lock: int | None = None) -> None:
        self._detach()
        self._session = os.urandom(8).hex()
        message = {"m": "attach", "v": protocol.VERSION, "session": self._session, "features": list(protocol.FEATURES)}
        if lock is None:
            self._send(message)
        else:
            self._send({**message, "lock": True}, [lock])

    def _attached(self) -> None:
        hello = self._hello
        if hello is None:
            return
        self._live = True
        if hello["epoch"] != self._last_epoch:
            self.epochs += 1
            self._last_epoch = hello["epoch"]
        self._share_flags(hello)
        self.epoch = None if hello["stopping"] else hello["epoch"]
        if hello["stopping"]:
            self.stopping.set()
        snapshot = ExecutorSnapshot(
            epoch=hello["epoch"],
            isolation=hello["isolation"],
            isolation_detail=hello["isolation_detail"],
            tree=hello["tree"],
            since=hello.get("since"),
            waiting=frozenset(self._waiting_ids),
            running=self._running,
            ended=self._ended,
            never_started=dict(self._never_started),
        )
        self._waiting_ids, self._running, self._ended = set(), {}, {}
        log = self._log.info if snapshot.isolation != "none" else self._log.warning
        log(
            "executor attached",
            epoch=snapshot.epoch,
            isolation=snapshot.isolation,
            detail=snapshot.isolation_detail,
            left_overs=snapshot.tree,
            running=len(snapshot.running),
            unacknowledged=len(snapshot.ended),
        )
        self._listener.attached(snapshot)

    def _share_flags(self, hello: dict[str, Any]) -> None:
        """Looks at those of the executors before, and shares some with this one."""
        if self._flags is not None and self._flags.epoch != hello["epoch"]:
            self._flags.close()
            self._flags = None
        self._never_started |= self._flag_files.take_others(hello["epoch"])
        if "flags" not in hello["features"]:
            return
        # Without them, an executor that dies may have started all that it was sent.
        with contextlib.suppress(OSError):
            if self._flags is None:
                self._flags = self._flag_files.of(hello["epoch"])
            self._send({"m": "flags", "epoch": hello["epoch"]}, [self._flags.share()])

    def _detach(self) -> None:
        self._hello = self.epoch = self.short = None
        self._live = False
        self._acks = []
        self._drop_outbox()

    def _lost_connection(self, why: str) -> None:
        self._log.error("the connection to the executor ended", problem=why)
        self.close()

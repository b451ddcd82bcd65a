"""From orders to running jobs: pipes, processes, and honest ends for those that could not be started."""

import fcntl
import os
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from . import protocol, shortage
from .identity import Uids
from .job import Job, unstarted
from .protocol import End, Order, close_all
from .pump import Budget, Log
from .spawn import NoRoomError, Spawn, Spawner, SpawnError
from .work import Work


class Malformed(Exception):  # noqa: N818  its text ends up in an End, not in a traceback
    """An order that cannot be understood."""


class Starter:
    """Starts jobs. Of the descriptors it is given it closes what the jobs do not keep."""

    def __init__(
        self,
        *,
        spawner: Spawner,
        uids: Optional[Uids],
        null: int,
        started: Callable[[Job, Order], None],
        ended: Callable[[End], None],
        time_ns: Callable[[], int],
        allows: Callable[[Order], bool],
        postponed: Callable[[Order, List[int], str], None],
        work: Optional[Work],
        peak_kib: Callable[[], int],
    ) -> None:
        """`uids`: whom jobs run as, each as its order says; None: the executor's own user. `null`: /dev/null, opened
        for reading. `started` takes over a job that runs. `allows`: there are descriptors for it. `postponed` takes an
        order back, with its descriptors, for which the service is short of something. `work`: the work folders, where
        there are any. `peak_kib` is the executor's own largest resident set."""
        self._spawner = spawner
        self._uids = uids
        self._null = null
        self._started = started
        self._ended = ended
        self._time_ns = time_ns
        self._allows = allows
        self._postponed = postponed
        self._work = work
        self._peak_kib = peak_kib

    def refuse(self, order: Order, fds: List[int], *, reason: str, detail: str) -> None:
        """Ends an order without starting it."""
        close_all(fds)
        self._ended(unstarted(order["id"], reason=reason, detail=detail, logs=order["logs"], ended_ns=self._time_ns()))

    def start(self, orders: Iterable[Tuple[Order, List[int]]]) -> None:
        """Starts a few orders in one go; each comes with its own descriptors: stdin if it has one, then the logs."""
        pieces: List[_Piece] = []
        try:
            for order, fds in orders:
                piece = self._prepare(order, fds)
                if piece is not None:
                    pieces.append(piece)
            self._spawner.run([piece.spawn for piece in pieces])
        finally:
            self._spawner.forget()
        peak_kib = self._peak_kib() if pieces else 0
        for piece in pieces:
            # Before anything is told: a job's output is at its end when its own processes are gone.
            close_all(piece.outputs)
        for piece in pieces:
            self._spawned(piece, peak_kib)

    def _prepare(self, order: Order, fds: List[int]) -> "Optional[_Piece]":
        """None: it is postponed, or over."""
        if not self._allows(order):
            self._postponed(order, fds, shortage.DESCRIPTORS)
            return None
        try:
            job, inputs, outputs = self._pipe(order, fds)
        except OSError as error:
            self._postponed(order, fds, shortage.kind(error) or shortage.DESCRIPTORS)
            return None
        try:
            spawn = self._spawn(order, job, (inputs[0] if inputs else self._null, outputs[0], outputs[-1]))
        except (SpawnError, OSError) as error:
            close_all(outputs)
            self._failed(order, job, inputs, error)
            return None
        return _Piece(order, job, inputs, outputs, spawn)

    def _spawned(self, piece: "_Piece", peak_kib: int) -> None:
        order, job, inputs, _, spawn = piece
        if spawn.error is not None:
            self._failed(order, job, inputs, spawn.error)
            return
        close_all(inputs)
        job.pid = spawn.pid
        job.started_ns, job.started_at = spawn.started_ns, spawn.started_at
        job.spawn_us = round((spawn.started_at - spawn.began) * 1e6)
        job.peak_kib = peak_kib
        self._started(job, order)

    def _failed(self, order: Order, job: Job, inputs: List[int], error: Exception) -> None:
        what = _lacking(error)
        if what is not None:
            self._put_back(order, job, inputs, what)
            return
        close_all(inputs)
        for log in job.logs:
            log.close()
        self.refuse(order, [], reason=protocol.SPAWN_FAILED, detail=str(error))

    def _spawn(self, order: Order, job: Job, fds: Tuple[int, int, int]) -> Spawn:
        env = {**order["env"], **_mark(job.id)}
        uid = self._uid(order)
        home = None
        if self._work is not None:
            home = self._work.folder(job.id.rpartition("/")[0], uid)
            env.setdefault("HOME", home)
        return self._spawner.prepare(
            argv=order["argv"],
            env=env,
            cwd=order["cwd"],
            home=home,
            fds=fds,
            order_limits=order["limits"],
            flag=order.get("flag"),
            uid=uid,
        )

    def _uid(self, order: Order) -> Optional[int]:
        if self._uids is None:
            return None
        uid = order.get("uid")
        if uid not in self._uids:
            which = "none" if uid is None else str(uid)
            raise SpawnError(f"the service gave it no user id of {self._uids} to run as, but {which}")
        return uid

    def _put_back(self, order: Order, job: Job, inputs: List[int], what: str) -> None:
        """It is tried again, and keeps its descriptors."""
        close_all([log.pipe for log in job.logs])
        self._postponed(order, [*inputs, *(log.file for log in job.logs)], what)

    def _pipe(self, order: Order, fds: List[int]) -> Tuple[Job, List[int], List[int]]:
        job = Job(order)
        log_bytes, policy = order["log_bytes"], order.get("log_policy") or protocol.END_JOB
        # Of the end each log keeps its part, so that a flood of one pushes nothing out of the other.
        apart = policy == protocol.TRUNCATE_HEAD
        if apart and log_bytes is not None:
            log_bytes = max(1, log_bytes // order["logs"])
        budget = Budget(log_bytes, policy)
        inputs, files = (fds[:1], fds[1:]) if order["stdin"] else ([], fds)
        outputs: List[int] = []
        pipes: List[int] = []
        try:
            for file in files:
                reading, writing = os.pipe()
                pipes.append(reading)
                outputs.append(writing)
                # Not blocking for the pump alone: the job's end is another open file description.
                fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
                if apart and job.logs:
                    budget = Budget(log_bytes, policy)
                job.logs.append(Log(pipe=reading, file=file, budget=budget, owner=job))
        except OSError:
            close_all(pipes)
            close_all(outputs)
            raise
        job.open_logs = len(files)
        return job, inputs, outputs


class _Piece(NamedTuple):
    """An order on its way, and its ends of the pipes."""

    order: Order
    job: Job
    inputs: List[int]
    outputs: List[int]
    spawn: Spawn


def _lacking(error: Exception) -> Optional[str]:
    if isinstance(error, NoRoomError):
        return error.what
    return shortage.kind(error) if isinstance(error, OSError) else None


def allot(orders: List[Order], fds: List[int]) -> List[Tuple[Order, List[int]]]:
    """Each order with its own descriptors.

    Raises:
        Malformed: they cannot be told apart; none was touched.
    """
    counts = []
    for order in orders:
        _check(order)
        counts.append(order["logs"] + bool(order["stdin"]))
    if sum(counts) != len(fds):
        raise Malformed(f"orders for {sum(counts)} descriptors came with {len(fds)}")
    allotted = []
    at = 0
    for order, count in zip(orders, counts):  # noqa: B905  strict came with Python 3.10
        allotted.append((order, fds[at : at + count]))
        at += count
    return allotted


def count_arrived(orders: List[Order], fds: List[int]) -> Tuple[int, int]:
    """Of orders whose last descriptors were lost: how many have all of theirs, and how many these are.

    Raises:
        Malformed: an order cannot be understood.
    """
    used = 0
    for at, order in enumerate(orders):
        _check(order)
        needed = order["logs"] + bool(order["stdin"])
        if used + needed > len(fds):
            return at, used
        used += needed
    return len(orders), used


_FIELDS: Dict[str, Tuple[type, ...]] = {
    "id": (str,),
    "slots": (int,),
    "argv": (list,),
    "env": (dict,),
    "cwd": (str,),
    "stdin": (bool,),
    "logs": (int,),
    "timeout": (int, float, type(None)),
    "grace": (int, float),
    "linger": (int, float),
    "log_bytes": (int, type(None)),
    "limits": (dict,),
    "flag": (int, type(None)),
    "log_policy": (str, type(None)),
    "uid": (int, type(None)),
}
_POLICIES = (None, protocol.END_JOB, protocol.TRUNCATE_TAIL, protocol.TRUNCATE_HEAD)


_TEXT = frozenset((str,))
_good_shapes: Set[Tuple[type, ...]] = set()  # of the orders so far, since nearly all are alike


def _check(order: Order) -> None:
    if not isinstance(order, dict):
        raise Malformed("an order is not an object")
    shape = tuple(map(type, map(order.get, _FIELDS)))
    if shape not in _good_shapes:
        for name, types in _FIELDS.items():
            if not isinstance(order.get(name), types):
                raise Malformed(f"an order's {name} is missing or of the wrong type")
        _good_shapes.add(shape)
    if order["logs"] not in (1, 2):
        raise Malformed("an order has one log or two")
    if order.get("log_policy") not in _POLICIES:
        raise Malformed(f"an order's log_policy {order['log_policy']!r} is not known")
    if not _TEXT.issuperset(map(type, order["argv"])):
        raise Malformed("an order's argv holds something that is not text")
    if not _TEXT.issuperset(map(type, order["env"].values())):
        raise Malformed("an order's env holds something that is not text")


def _mark(job_id: str) -> Dict[str, str]:
    # By these two an orphan is known: no client's variable may stand in their place.
    correlation_id, _, index = job_id.rpartition("/")
    return {"JOBWORKER_CORRELATION_ID": correlation_id, "JOBWORKER_JOB_INDEX": index}

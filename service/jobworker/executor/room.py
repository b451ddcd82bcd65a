"""Orders for which the service itself is short of something, processes say. They wait, however long it takes: it is no
job's failure. It tries again when a job has ended, and now and then; what is short is told once, and when it is over.
"""

from typing import Any, Callable, Container, Dict, Iterable, List, Optional

from . import shortage
from .batchslots import BatchSlots, Given
from .descriptors import Descriptors
from .job import Job
from .protocol import DESCRIPTORS, Order
from .timers import Timer, Timers

_BUNCH = 8
_FIRST_WAIT_SECONDS, _LAST_WAIT_SECONDS = 0.1, 2.0

# A job takes its logs' files, which come with the order, a pipe for each, and its pidfd. A message brings 250 at most.
# The rest is for what is opened for a moment: to look into /proc, to send a large message.
_SPARE = 16
_SPARE_TO_RECEIVE = 2 * _SPARE


class Room:
    """The way from BatchSlots to the Starter. Wired by `main`, which sets `relieve` where that is to be had: it
    makes room for processes."""

    relieve: Optional[Callable[[], None]] = None

    def __init__(
        self,
        *,
        slots: BatchSlots,
        jobs: Dict[int, Job],
        descriptors: Descriptors,
        timers: Timers,
        clock: Callable[[], float],
        time_ns: Callable[[], int],
        tell: Callable[[Dict[str, Any]], None],
        order_again: Callable[[], None],
    ) -> None:
        """`jobs`: those that run. `tell`: what is short, or was. `order_again`: has the server order once more what
        this executor does not know."""
        self.short: Optional[Dict[str, Any]] = None
        self.unarrived: Dict[str, Order] = {}  # orders that lost their descriptors on the way
        self._slots = slots
        self._jobs = jobs
        self._descriptors = descriptors
        self._timers = timers
        self._clock = clock
        self._time_ns = time_ns
        self._tell = tell
        self._order_again = order_again
        self._closed = False
        self._bunch = _BUNCH
        self._postponed: List[Given] = []  # of the bunch that is being started
        self._began = 0.0
        self._wait = _FIRST_WAIT_SECONDS
        self._timer: Optional[Timer] = None

    @property
    def ready(self) -> bool:
        """Orders can be started now."""
        return bool(self._slots.ready) and not self._closed

    def bunch(self) -> List[Given]:
        """The next ones."""
        ready = self._slots.ready
        return [ready.popleft() for _ in range(min(self._bunch, len(ready)))]

    def allows(self, order: Order) -> bool:
        """There are descriptors for a job, which are taken with this."""
        needed = 2 * order["logs"] + 1
        if self._descriptors.left(needed + _SPARE) < needed + _SPARE:
            return False
        self._descriptors.take(needed)
        return True

    def receivable(self) -> int:
        """How many descriptors may come with the next message: as many as jobs can be started with; at least the one
        that a large message itself takes."""
        queued = 3 * len(self._slots.ready)
        left = self._descriptors.left(3 * (DESCRIPTORS + 1) + queued + _SPARE_TO_RECEIVE)
        return max(1, min(DESCRIPTORS + 1, (left - queued - _SPARE_TO_RECEIVE) // 3))

    def received(self, count: int) -> None:
        """So many came."""
        self._descriptors.take(count)

    def postpone(self, order: Order, fds: List[int], what: str) -> None:
        """One of the bunch cannot be started for want of something."""
        self._postponed.append((order, fds))
        if self.short is None or self.short["what"] != what:
            self._say_short(what)

    def lost(self, orders: Iterable[Order]) -> None:
        """These came without their descriptors."""
        self.unarrived.update((order["id"], order) for order in orders)
        if self.short is None:
            self._say_short(shortage.DESCRIPTORS)
        self._try_later()

    def give_up(self, names: Optional[Container[str]]) -> List[Given]:
        """Takes out, of these or of all, those that never arrived."""
        given_up = [order for name, order in self.unarrived.items() if names is None or name in names]
        for order in given_up:
            del self.unarrived[order["id"]]
        return [(order, []) for order in given_up]

    def tried(self) -> None:
        """The bunch is over."""
        if not self._postponed:
            self._bunch = min(2 * self._bunch, _BUNCH)
            self._wait = _FIRST_WAIT_SECONDS
            self._look_whether_over()
            return
        if self.relieve is not None and self.short is not None and self.short["what"] == shortage.PROCESSES:
            self.relieve()
        self._slots.put_back(self._postponed, last=not self._jobs)
        self._postponed = []
        self._closed = True
        self._try_later()

    def freed(self) -> None:
        """A job has ended, or a place was given up: there may be room."""
        if self.short is not None:
            self._try(1, after_seconds=_FIRST_WAIT_SECONDS)  # what one leaves, one can take

    def _try_later(self) -> None:
        if self._timer is None:
            self._timer = self._timers.at(self._clock() + self._wait, self._waited)

    def _waited(self) -> None:
        self._try(_BUNCH, after_seconds=min(2 * self._wait, _LAST_WAIT_SECONDS))

    def _try(self, bunch: int, *, after_seconds: float) -> None:
        """So many orders at first; if none starts, again after a while."""
        self._timers.cancel(self._timer)
        self._timer = None
        self._wait = after_seconds
        self._closed = False
        self._bunch = bunch
        if self.unarrived:
            wanted = min(sum(order["logs"] + 1 for order in self.unarrived.values()), DESCRIPTORS)
            # Where nobody else will give any back, a part of them is better than none.
            if self.receivable() >= wanted or not (self._jobs or self._slots.ready):
                self.unarrived.clear()
                self._order_again()
            else:
                self._try_later()
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if self.short is not None and not self._slots.ready and not self.unarrived:
            elapsed_ns = round((self._clock() - self._began) * 1e9)
            told, self.short = self.short, None
            self._bunch = _BUNCH
            self._tell({**told, "over": told["since"] + elapsed_ns})

    def _say_short(self, what: str) -> None:
        self._began = self._clock()
        self.short = {"what": what, "since": self._time_ns(), "over": None}
        self._tell(self.short)

"""What the scheduler knows of whoever runs jobs, and what that tells it. Today there is one, the executor beside the
server (local.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from jobworker.server.model import JobEnd, JobSpec, LogPolicy


@dataclass(slots=True)
class Order:
    """A job to start. `logs` and `stdin` are open descriptors, which the worker closes."""

    id: str  # "<correlation id>/<index>"
    index: int
    slots: int  # it waits at the worker while so many jobs of its batch run
    spec: JobSpec
    env: dict[str, str]  # the request's and the marks
    timeout_seconds: float | None
    grace_seconds: float
    linger_seconds: float
    log_bytes: int | None
    logs: list[int]
    stdin: int | None
    log_policy: LogPolicy = LogPolicy.END
    uid: int | None = None  # whom of the worker's machine it runs as; None: the worker's own user


@dataclass(frozen=True, slots=True)
class Short:
    """What an executor is short of, "processes" say; its orders wait for it."""

    what: str
    since: int  # Unix nanoseconds


@dataclass(frozen=True, slots=True)
class ExecutorSnapshot:
    """An executor's snapshot of itself, after everything that the server before had sent it."""

    epoch: str
    isolation: str
    isolation_detail: str
    tree: str
    since: int | None  # when it started, Unix nanoseconds
    waiting: frozenset[str]  # ids it holds until a slot is free
    running: dict[str, int]  # id -> when it started, Unix nanoseconds
    ended: dict[str, JobEnd]  # not acknowledged yet
    # Ids that executors before it were sent, and for certain did not start; the epoch of each of these.
    never_started: Mapping[str, str] = field(default_factory=dict)


class Worker(Protocol):
    """Runs jobs. Nothing here blocks or fails: what cannot be sent is sent later, or told by the next `attached`."""

    @property
    def epoch(self) -> str | None:
        """Of the executor that takes orders now; None: none does."""
        ...

    def start(self, orders: list[Order]) -> None: ...

    def uid_of(self, user: str) -> int | None:
        """Whom of the worker's machine a user's jobs run as; None: the worker's own user. Any thread; may block.

        Raises:
            NoUidError: none is left for this user.
            OSError: a new one cannot be put down.
        """
        ...

    def stop(self, ids: list[str], grace_seconds: float | None, *, interrupt: bool = False) -> None:
        """Ends jobs as cancelled, or as interrupted: one that has not started is given back."""
        ...

    def acknowledge(self, ids: list[str], *, at_once: bool = False) -> None:
        """These ends are recorded, or, `at_once`, before they are ordered again, that these did not start."""
        ...

    def tell_again(self) -> None:
        """Has the executor tell its snapshot again: what was not acknowledged could not be recorded, and can be now."""
        ...

    def over(self, correlation_id: str) -> None:
        """No job of this batch will be ordered any more: what its jobs left in their work folder may go."""
        ...

    def unfinished(self, correlation_ids: list[str]) -> None:
        """Jobs of these batches alone can still be ordered."""
        ...


class Listener(Protocol):
    """Is told what happens to orders."""

    def attached(self, snapshot: ExecutorSnapshot) -> None: ...

    def started(self, jobs: list[tuple[str, int]]) -> None:
        """(id, Unix nanoseconds)."""
        ...

    def ended(self, jobs: list[tuple[str, JobEnd]]) -> None: ...

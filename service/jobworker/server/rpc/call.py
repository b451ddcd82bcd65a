"""One call under way: who makes it, for which batch, and how to end it from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from jobworker.server.errors import UnavailableError
from jobworker.server.ids import CorrelationId

if TYPE_CHECKING:
    from jobworker.server.errors import JobworkerError
    from jobworker.server.telemetry.records import CallRecord
    from jobworker.server.telemetry.tracecontext import Remote


class Principal(Protocol):
    """Who calls, as certificate and token say; `expires_at` in seconds since 1970."""

    @property
    def user(self) -> str: ...

    @property
    def serial(self) -> int: ...

    @property
    def token_id(self) -> str | None: ...

    @property
    def role(self) -> str | None: ...

    @property
    def rights(self) -> Collection[str]: ...

    @property
    def sees_all(self) -> bool: ...

    @property
    def expires_at(self) -> float: ...

    @property
    def certificate_expires_at(self) -> float: ...

    @property
    def token_expires_at(self) -> float | None: ...


@dataclass(slots=True, eq=False)
class Call:
    """A call, from its first layer to its end. `long` ones last as long as the client likes, and so does the request of
    an `upload`."""

    method: str
    long: bool
    upload: bool
    task: asyncio.Task[object]
    correlation_id: CorrelationId | None = None  # as the client named its batch in the metadata
    batch: CorrelationId | None = None  # which one the call turned out to be about, for the log
    certificate_pem: bytes | None = None
    authorization: str | None = None
    principal: Principal | None = None
    code: str = "OK"
    cut_by: JobworkerError | None = field(default=None)
    remote: Remote | None = None  # the caller's span, as it told it
    record: CallRecord | None = None  # for the call's own
    token_id: str | None = None  # of the token that it was answered with, or refused for
    audit: dict[str, object] = field(default_factory=dict)  # what its line in the audit log says beside
    at_end: list[Callable[[], None]] = field(default_factory=list)  # once all of the answer is on its way

    def finish(self, _: object = None) -> None:
        """Gives back what was taken for the call."""
        while self.at_end:
            self.at_end.pop()()

    def cut(self, error: JobworkerError) -> None:
        """Ends the call with an error, wherever it waits; once."""
        if self.cut_by is None:
            self.cut_by = error
            self.task.cancel()


# Health and reflection have long calls too.
_FOLLOWED = "/jobworker.v1.JobQueryService/"
# Of everyone; what one may have is far less (shares.py).
_MAX_CALLS = 20_000
_RETRY_SECONDS = 1.0

CURRENT: ContextVar[Call] = ContextVar("jobworker_call")


def current() -> Call | None:
    """The call in whose task this runs; None in what it only set going, which is about others too."""
    call = CURRENT.get(None)
    if call is None:
        return None
    try:
        return call if asyncio.current_task() is call.task else None
    except RuntimeError:  # not on the event loop
        return None


def current_record() -> CallRecord | None:
    """What its span will be made from."""
    call = current()
    return None if call is None else call.record


def log_fields() -> Mapping[str, object]:
    """What each line in the log says that is written on behalf of a call, where the line does not say it itself."""
    call = current()
    if call is None:
        return {}
    fields: dict[str, object] = {"rpc": call.method}
    if call.principal is not None:
        fields["user"] = call.principal.user
    if (found := call.batch or call.correlation_id) is not None:
        fields["correlation_id"] = found
    if call.remote is not None:
        fields["trace_id"] = fields["caller_trace_id"] = f"{call.remote.trace_id:032x}"
    elif call.record is not None:
        fields["trace_id"] = f"{call.record.trace_id:032x}"
    return fields


def caller() -> Principal:
    """Who makes the current call; only in handlers behind the identity layer."""
    principal = CURRENT.get().principal
    if principal is None:
        raise RuntimeError("no caller: the identity layer was left out")
    return principal


def scope() -> str | None:
    """Whose batches the caller sees: a user's, or (None) everyone's."""
    principal = caller()
    return None if principal.sees_all else principal.user


def about(correlation_id: str) -> CorrelationId:
    """The batch that the current call names; its lines in the log bear the name.

    Raises:
        InvalidRequestError: it is not a CorrelationID.
    """
    CURRENT.get().batch = found = CorrelationId.parse(correlation_id)
    return found


class Calls:
    """All calls under way. At shutdown the long ones are cut, and the others waited for."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed_by: JobworkerError | None = None

    def enter(self, call: Call) -> None:
        """A call begins.

        Raises:
            JobworkerError: none is taken any more, or not now.
        """
        if self.closed_by is not None:
            raise self.closed_by
        if len(self._calls) >= _MAX_CALLS:
            raise UnavailableError("too many calls are under way", retry_after_seconds=_RETRY_SECONDS)
        self._calls.add(call)
        self._idle.clear()

    def leave(self, call: Call) -> None:
        """A call is over."""
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._calls)

    @property
    def following(self) -> int:
        """How many follow a log, or wait for a batch."""
        return sum(call.long and call.method.startswith(_FOLLOWED) for call in self._calls)

    @property
    def open_ended(self) -> list[Call]:
        """Those that last as long as the client likes, by a caller that is known."""
        return [call for call in self._calls if (call.long or call.upload) and call.principal is not None]

    def close(self, error: JobworkerError) -> None:
        """Refuses new calls, and cuts the long ones, with `error`."""
        self.closed_by = error
        self._cut(error, long_only=True)

    async def settle(self, grace_seconds: float) -> None:
        """Returns when all are over; those that last longer than `grace_seconds` are cut."""
        error = self.closed_by
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            if error is not None:
                self._cut(error, long_only=False)

    def _cut(self, error: JobworkerError, *, long_only: bool) -> None:
        for call in tuple(self._calls):
            if call.long or not long_only:
                call.cut(error)

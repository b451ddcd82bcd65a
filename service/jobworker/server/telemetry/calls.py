"""What happens to calls, as the layers around them and the listeners tell it, and who counts that. Knows no gRPC."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from jobworker.server.errors import AuthReason
from jobworker.server.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.telemetry.instruments import Counter, Histogram, Instruments

ACCEPTED, THROTTLED = "accepted", "throttled"

# gRPC's codes, as the `grpc_code` of go-grpc-middleware spells them.
_CODES = {
    "OK": "OK",
    "CANCELLED": "Canceled",
    "UNKNOWN": "Unknown",
    "INVALID_ARGUMENT": "InvalidArgument",
    "DEADLINE_EXCEEDED": "DeadlineExceeded",
    "NOT_FOUND": "NotFound",
    "ALREADY_EXISTS": "AlreadyExists",
    "PERMISSION_DENIED": "PermissionDenied",
    "UNAUTHENTICATED": "Unauthenticated",
    "RESOURCE_EXHAUSTED": "ResourceExhausted",
    "FAILED_PRECONDITION": "FailedPrecondition",
    "ABORTED": "Aborted",
    "OUT_OF_RANGE": "OutOfRange",
    "UNIMPLEMENTED": "Unimplemented",
    "INTERNAL": "Internal",
    "UNAVAILABLE": "Unavailable",
    "DATA_LOSS": "DataLoss",
}
_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
# gRPC does not tell when a connection comes or goes, only whose call it is: so many peers are remembered.
_PEERS = 10_000


class CallObserver:
    """Does nothing with what it is told. Methods by full name; called on the event loop."""

    def serve(self, method: str, *, streams_in: bool, streams_out: bool) -> None:
        """This method is served; again is fine."""

    def started(self, method: str) -> None:
        """A call begins."""

    def ended(self, method: str, code: str, seconds: float, correlation_id: str | None) -> None:
        """A call is over; `code` as `NOT_FOUND`, `correlation_id` of the batch that it was about."""

    def login(self, outcome: str) -> None:
        """ACCEPTED, THROTTLED, or an AuthReason."""

    def denied(self, reason: str) -> None:
        """A call other than a login was not let in, for an AuthReason."""

    def peer(self, peer: str) -> None:
        """A call came over gRPC from this address."""

    def connected(self) -> None:
        """A connection over REST made its handshake."""

    def handshake_failed(self) -> None:
        """One did not."""

    def left_without_call(self) -> None:
        """A connection over gRPC ended without a call, though its client had said something."""


class _Method:
    """The counters of one."""

    __slots__ = ("codes", "seconds", "started")

    def __init__(self, started: Counter, codes: dict[str, Counter], seconds: Histogram) -> None:
        self.started = started
        self.codes = codes
        self.seconds = seconds


class CallMetrics(CallObserver):
    """A CallObserver that counts. `clock` gives Unix seconds."""

    def __init__(self, instruments: Instruments, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._methods: dict[str, _Method] = {}
        self._started = instruments.counter(names.RPC_STARTED)
        self._handled = instruments.counter(names.RPC_HANDLED)
        self._seconds = instruments.histogram(names.RPC_SECONDS)
        logins, denied = instruments.counter(names.LOGINS), instruments.counter(names.DENIED)
        reasons = [reason.value for reason in AuthReason]
        self._logins = {outcome: logins.of(outcome.lower()) for outcome in (ACCEPTED, THROTTLED, *reasons)}
        self._denied = {reason: denied.of(reason.lower()) for reason in reasons}
        connections = instruments.counter(names.TLS_CONNECTIONS)
        self._grpc, self._rest = connections.of("grpc"), connections.of("rest")
        self._failures = instruments.counter(names.TLS_FAILURES).of("rest")
        self._without_call = instruments.counter(names.WITHOUT_CALL).of()
        self._peers: OrderedDict[str, None] = OrderedDict()

    def serve(self, method: str, *, streams_in: bool, streams_out: bool) -> None:
        service, _, name = method.removeprefix("/").partition("/")
        labels = (_KINDS[streams_in, streams_out], service, name)
        codes = {code: self._handled.of(*labels, spelt) for code, spelt in _CODES.items()}
        self._methods[method] = _Method(self._started.of(*labels), codes, self._seconds.of(*labels))

    def started(self, method: str) -> None:
        self._methods[method].started.value += 1

    def ended(self, method: str, code: str, seconds: float, correlation_id: str | None) -> None:
        found = self._methods[method]
        (found.codes.get(code) or found.codes["UNKNOWN"]).value += 1
        if correlation_id is None:
            found.seconds.observe(seconds)
        else:
            found.seconds.observe_of(correlation_id, seconds, self._clock())

    def login(self, outcome: str) -> None:
        self._logins[outcome].value += 1

    def denied(self, reason: str) -> None:
        self._denied[reason].value += 1

    def peer(self, peer: str) -> None:
        if peer in self._peers:
            self._peers.move_to_end(peer)
            return
        self._grpc.value += 1
        self._peers[peer] = None
        if len(self._peers) > _PEERS:
            self._peers.popitem(last=False)

    def connected(self) -> None:
        self._rest.value += 1

    def handshake_failed(self) -> None:
        self._failures.value += 1

    def left_without_call(self) -> None:
        self._without_call.value += 1

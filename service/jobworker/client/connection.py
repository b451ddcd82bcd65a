"""One connection to the service: the channel, the token on each call, and calls that outlast a restart.

Nothing here knows what a call is about.
"""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from jobworker.client.errors import InvalidArgumentError, JobworkerError, UnauthenticatedError, from_rpc
from jobworker.client.retry import Backoff, passes_by_itself
from jobworker.client.tokens import Token, TokenSource
from jobworker.v1.admin_pb2_grpc import AdminServiceStub
from jobworker.v1.auth_pb2 import LoginRequest
from jobworker.v1.auth_pb2_grpc import AuthServiceStub
from jobworker.v1.query_pb2_grpc import JobQueryServiceStub
from jobworker.v1.schedule_pb2_grpc import JobScheduleServiceStub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobworker.client.bundle import Bundle

_T = TypeVar("_T")

Metadata = tuple[tuple[str, str], ...]

MESSAGE_BYTES = 64 << 20  # gRPC's own limit for what is received is 4 MiB

# Reasons (google.rpc.ErrorInfo) for which a new token may help: too old, or the service's token key is another now.
_RENEWABLE = frozenset({"TOKEN_EXPIRED", "TOKEN_MALFORMED", "TOKEN_FOREIGN", "TOKEN_MISSING"})


class Connection:
    """A channel with mutual TLS, and who we are on it. Made and used on one event loop."""

    def __init__(
        self,
        *,
        address: str,
        bundle: Bundle,
        tokens: TokenSource | None,
        patience_seconds: float,
        server_name: str | None = None,
    ) -> None:
        self.address = address
        self.patience_seconds = patience_seconds
        self._tokens = tokens
        credentials = grpc.ssl_channel_credentials(
            root_certificates=bundle.ca, private_key=bundle.key, certificate_chain=bundle.certificate
        )
        self.channel = grpc.aio.secure_channel(address, credentials, options=_options(server_name))
        self._auth = AuthServiceStub(self.channel)
        self.schedule = JobScheduleServiceStub(self.channel)
        self.query = JobQueryServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)

    async def close(self) -> None:
        """Ends every call."""
        await self.channel.close()

    async def login(self, username: str, password: str) -> Token:
        """A new token for the user that the certificate names. Tried once: a service under load refuses logins."""
        if not (_is_text(username) and _is_text(password)):
            raise InvalidArgumentError("user name or password is no text in UTF-8")
        try:
            response = await self._auth.Login(LoginRequest(username=username, password=password))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        return Token(response.access_token, response.expires_at.ToDatetime(tzinfo=UTC))

    async def token(self) -> str:
        """The token to send now; empty when there is none."""
        return "" if self._tokens is None else await self._tokens.current(self.login)

    async def renew(self, error: JobworkerError, rejected: str) -> bool:
        """Whether there is another token to try after a call failed so with the token `rejected`."""
        if self._tokens is None or not isinstance(error, UnauthenticatedError) or error.reason not in _RENEWABLE:
            return False
        renewed = await self._tokens.renew(rejected, self.login)
        return renewed is not None and renewed != rejected

    async def call(
        self,
        attempt: Callable[[Metadata], Awaitable[_T]],
        *,
        correlation_id: str | None = None,
        again: bool = True,
        renewable: bool = True,
        patience_seconds: float | None = None,
    ) -> _T:
        """The answer of `attempt`, which makes the call once, with the metadata it is handed.

        While the service is away it is tried again, and with a refused token once more if there is another: it must be
        a call that may be repeated, or `again` (`renewable`) be False.

        Raises:
            JobworkerError: what the last try said.
        """
        backoff = Backoff(patience_seconds=self.patience_seconds if patience_seconds is None else patience_seconds)
        renewed = False
        while True:
            token = await self.token()
            try:
                return await attempt(metadata(token, correlation_id))
            except grpc.aio.AioRpcError as raw:
                error = from_rpc(raw)
            if renewable and not renewed and await self.renew(error, token):
                renewed = True
            elif again and passes_by_itself(error):
                await asyncio.sleep(backoff.next(error).pause_seconds)
            else:
                raise error


def metadata(token: str, correlation_id: str | None = None) -> Metadata:
    """What goes along with each call.

    Raises:
        UnauthenticatedError: the token cannot be one, and so is not sent. gRPC's own error would quote it.
    """
    if not (token.isascii() and token.isprintable()):
        raise UnauthenticatedError("the token has characters that no token has", reason="TOKEN_MALFORMED")
    pairs: Metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return pairs if correlation_id is None else (*pairs, ("x-correlation-id", correlation_id))


def _is_text(value: str) -> bool:
    """Not where undecodable bytes came by way of a surrogate escape; protobuf's error would hold the whole value."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _options(server_name: str | None) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        # A service that vanished without a word (a cable, a firewall) is noticed in 40 s, on a silent stream too.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A restarted service is found soon; the defaults wait up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Clients of one process would share a connection, and with it the pauses after a failure.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options

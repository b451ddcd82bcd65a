"""One connection to the service: the token on each call, and calls that outlast a restart, a token and a certificate.

Nothing here knows what a call is about.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from datetime import UTC
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from jobworker.client.bundle import Bundle, BundleFolder
from jobworker.client.cause import Cause, Finder
from jobworker.client.clock import ServerClock
from jobworker.client.errors import (
    HandshakeError,
    InvalidArgumentError,
    JobworkerError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
    from_rpc,
)
from jobworker.client.links import Link, Links
from jobworker.client.retry import Backoff, passes_by_itself
from jobworker.client.tokens import Token, TokenSource
from jobworker.v1.auth_pb2 import LoginRequest, LoginResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_T = TypeVar("_T")

Metadata = tuple[tuple[str, str], ...]

# Reasons (google.rpc.ErrorInfo) for which a new token may help: too old, or the service's token key is another now.
_RENEWABLE = frozenset({"TOKEN_EXPIRED", "TOKEN_MALFORMED", "TOKEN_FOREIGN", "TOKEN_MISSING"})
# ... and those for which another certificate may.
_CERTIFICATE = frozenset({"CERTIFICATE_INVALID", "CERTIFICATE_REVOKED"})
# A token that is not taken is refused at once: a call that lasted longer was let in, and its token refused since.
_LET_IN_SECONDS = 1.0
# Logins in a row for one call. One is not enough: a password may be changed again while the call is made once more.
_RENEWALS_MOST = 3
_LOOK_SECONDS = 1.0  # at most so often for the cause of failures


class Connection:
    """A channel with mutual TLS, and who we are on it. Made and used on one event loop."""

    def __init__(
        self,
        *,
        address: str,
        bundle: Bundle | BundleFolder,
        tokens: TokenSource | None,
        patience_seconds: float,
        server_name: str | None = None,
        clock: ServerClock | None = None,
    ) -> None:
        self.address = address
        self.patience_seconds = patience_seconds
        self.clock = clock or ServerClock()
        self.links = Links(address=address, bundle=bundle, server_name=server_name)
        self._tokens = tokens
        folder = bundle.folder if isinstance(bundle, BundleFolder) else ""
        self._finder = Finder(address=address, folder=os.fspath(folder), server_name=server_name)
        self._cause: Cause | None = None
        self._looked_at = -_LOOK_SECONDS
        self._reached = False

    async def close(self) -> None:
        """Ends every call."""
        await self.links.close()

    async def login(self, username: str, password: str) -> Token:
        """A new token for the user that the certificate names. Tried once: a service under load refuses logins."""
        if not (_is_text(username) and _is_text(password)):
            raise InvalidArgumentError("user name or password is not text in UTF-8")
        request = LoginRequest(username=username, password=password)
        while True:
            async with self.links.using() as link:
                try:
                    response = await link.auth.Login(request)
                    break
                except grpc.aio.AioRpcError as raw:
                    error = await self.failure(raw)
            if not self.may_go_over_another(error, link):
                raise error
        self._reached = True
        token = _token(response)
        if token.given_at is not None:
            self.clock.learn(token.given_at.timestamp())
        return token

    async def token(self) -> str:
        """The token to send now; empty when there is none."""
        return "" if self._tokens is None else await self._tokens.current(self.login)

    async def renew(self, rejected: str) -> bool:
        """Whether there is another token to try after one was refused."""
        if self._tokens is None:
            return False
        renewed = await self._tokens.renew(rejected, self.login)
        return renewed is not None and renewed != rejected

    async def failure(self, raw: grpc.aio.AioRpcError) -> JobworkerError:
        """The exception for a failed call; where the service was not reached, with the cause, if one can be found."""
        error = from_rpc(raw)
        if not isinstance(error, UnavailableError) or error.retry_after_seconds is not None:  # the service's own
            return error
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._cause = await asyncio.to_thread(self._finder.find, self.links.newest.bundle, os.environ)
        if self._cause is not None and self._cause.kind == "lasting":
            return HandshakeError(self._cause.words)
        if self._cause is None or isinstance(error, HandshakeError):  # the latter: through a proxy, say
            return error
        lasting = self._cause.kind == "name" and not self._reached
        return UnreachableError(self._cause.words) if lasting else UnavailableError(self._cause.words)

    def may_go_over_another(self, error: JobworkerError, link: Link) -> bool:
        """Whether a call failed so for the certificate that it was made with, and there is another now."""
        if not isinstance(error, HandshakeError) and error.reason not in _CERTIFICATE:
            return False
        self.links.look(now=True)
        return link is not self.links.newest

    async def call(
        self,
        attempt: Callable[[Link, Metadata], Awaitable[_T]],
        *,
        again: bool = True,
        renewable: bool = True,
        patience_seconds: float | None = None,
    ) -> _T:
        """The answer of `attempt`, which makes the call once, over the link and with the metadata it is handed.

        While the service is away it is tried again, and a few times after a refused token or certificate, if there is
        another: it must be a call that may be repeated, or `again` (`renewable`) be False.

        Raises:
            JobworkerError: what the last try said.
        """
        backoff = Backoff(patience_seconds=self.patience_seconds if patience_seconds is None else patience_seconds)
        tries = Tries(self)
        while True:
            try:
                async with tries.one() as (link, pairs):
                    answer = await attempt(link, pairs)
                self._reached = True
            except grpc.aio.AioRpcError as raw:
                error = await self.failure(raw)
            except JobworkerError as failed:
                if tries.begun:  # it is none of this call's
                    raise
                error = failed
            else:
                return answer
            left = await tries.mend(error) if renewable and tries.begun else error
            if left is None:
                continue
            if not ((again or not tries.begun) and passes_by_itself(left)):
                raise left
            await asyncio.sleep(backoff.next(left).pause_seconds)


class Tries:
    """The tries of one call: what each is made with, and whether another token or certificate mends a refusal."""

    def __init__(self, connection: Connection) -> None:
        self.begun = False  # the last one has a token; without, a login has failed
        self._connection = connection
        self._token = ""
        self._link: Link | None = None
        self._began_at = 0.0
        self._renewals = 0  # in a row

    @asynccontextmanager
    async def one(self) -> AsyncIterator[tuple[Link, Metadata]]:
        """What to make one try with."""
        self.begun = False
        self._token = await self._connection.token()
        self.begun = True
        self._began_at = asyncio.get_running_loop().time()
        async with self._connection.links.using() as link:
            self._link = link
            yield link, _metadata(self._token)

    def progress(self) -> None:
        """The call was let in: a token that is refused after this was good until now."""
        self._renewals = 0

    async def mend(self, error: JobworkerError) -> JobworkerError | None:
        """None: another try may go better at once. Else what the call has failed with: `error`, or a failed login."""
        if self._link is not None and self._connection.may_go_over_another(error, self._link):
            return None
        if not isinstance(error, UnauthenticatedError) or error.reason not in _RENEWABLE:
            return error
        if asyncio.get_running_loop().time() - self._began_at > _LET_IN_SECONDS:
            self.progress()
        if self._renewals == _RENEWALS_MOST:
            return error
        try:
            renewed = await self._connection.renew(self._token)
        except JobworkerError as failed:
            return failed
        self._renewals += 1
        return None if renewed else error


def _metadata(token: str) -> Metadata:
    """What goes along with each call.

    Raises:
        UnauthenticatedError: the token cannot be one, and so is not sent. gRPC's own error would quote it.
    """
    if not (token.isascii() and token.isprintable()):
        raise UnauthenticatedError("the token has characters that no token has", reason="TOKEN_MALFORMED")
    return (("authorization", f"Bearer {token}"),) if token else ()


def _token(response: LoginResponse) -> Token:
    """An older service tells less."""
    given = response.server_time if response.HasField("server_time") else None
    certificate = response.certificate_expires_at if response.HasField("certificate_expires_at") else None
    try:
        return Token(
            response.access_token,
            response.expires_at.ToDatetime(tzinfo=UTC),
            given_at=None if given is None else given.ToDatetime(tzinfo=UTC),
            certificate_expires_at=None if certificate is None else certificate.ToDatetime(tzinfo=UTC),
        )
    except (OverflowError, ValueError):
        raise JobworkerError("the service's answer to the login names times that are none") from None


def _is_text(value: str) -> bool:
    """Not where undecodable bytes came by way of a surrogate escape; protobuf's error would hold the whole value."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

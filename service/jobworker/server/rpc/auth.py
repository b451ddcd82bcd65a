"""AuthService: a password, over a certificate, for a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from jobworker.server.rpc.call import CURRENT, caller
from jobworker.v1 import auth_pb2, auth_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Token(Protocol):
    """A token that was given."""

    @property
    def access_token(self) -> str: ...

    @property
    def token_id(self) -> str: ...

    @property
    def expires_at_unix(self) -> float: ...

    @property
    def certificate_expires_at_unix(self) -> float: ...

    @property
    def given_at_unix(self) -> float: ...


class Login(Protocol):
    """Who gives tokens."""

    def login(self, *, certificate_pem: bytes | None, username: str, password: str) -> Awaitable[Token]: ...

    def logout(self, token_id: str, *, expires_at: float) -> Awaitable[None]: ...


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """See auth.proto."""

    def __init__(self, *, identity: Login) -> None:
        self._identity = identity

    async def Login(self, request: auth_pb2.LoginRequest, context: Any) -> auth_pb2.LoginResponse:  # noqa: ARG002, N802
        """Checks the password and gives a token."""
        call = CURRENT.get()
        token = await self._identity.login(
            certificate_pem=call.certificate_pem, username=request.username, password=request.password
        )
        call.token_id = token.token_id
        response = auth_pb2.LoginResponse(
            access_token=token.access_token,
            expires_at=Timestamp(seconds=int(token.expires_at_unix)),
            certificate_expires_at=Timestamp(seconds=int(token.certificate_expires_at_unix)),
        )
        response.server_time.FromNanoseconds(round(token.given_at_unix * 1e9))
        return response

    async def Logout(self, request: auth_pb2.LogoutRequest, context: Any) -> auth_pb2.LogoutResponse:  # noqa: ARG002, N802
        """Ends the caller's token."""
        who = caller()
        if who.token_id is not None:
            await self._identity.logout(who.token_id, expires_at=who.token_expires_at or 0)
        return auth_pb2.LogoutResponse()

    async def WhoAmI(self, request: auth_pb2.WhoAmIRequest, context: Any) -> auth_pb2.WhoAmIResponse:  # noqa: ARG002, N802
        """What certificate, token and users file say of the caller."""
        who = caller()
        return auth_pb2.WhoAmIResponse(
            user=who.user,
            role=who.role or "",
            rights=sorted(who.rights),
            certificate_serial=f"{who.serial:x}",
            certificate_expires_at=Timestamp(seconds=int(who.certificate_expires_at)),
            token_expires_at=Timestamp(seconds=int(who.token_expires_at or 0)),
        )

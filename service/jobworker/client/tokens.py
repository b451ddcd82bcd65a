"""Where a client has its token from. Nothing here knows how a login travels: that is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Token:
    """What a login gives: the text to send, and until when it works."""

    text: str = field(repr=False)
    expires_at: datetime


Login = Callable[[str, str], Awaitable[Token]]  # of a user name and a password


class TokenSource(Protocol):
    """Gives the token for each call."""

    async def current(self, login: Login) -> str:
        """The token to send now; `login` asks the service for one."""
        ...

    async def renew(self, rejected: str, login: Login) -> str | None:
        """Another one, after the service took `rejected` no longer; None when there is none."""
        ...


class FixedToken:
    """A token that somebody else looks after."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def current(self, login: Login) -> str:  # noqa: ARG002
        return self._text

    async def renew(self, rejected: str, login: Login) -> str | None:  # noqa: ARG002
        return None


class PasswordLogin:
    """Logs in at the first call, and again when the token is about to expire or is refused."""

    def __init__(self, username: str, password: str, *, margin_seconds: float = 30) -> None:
        self._username = username
        self._password = password
        self._margin = timedelta(seconds=margin_seconds)
        self._token: Token | None = None
        self._lock = asyncio.Lock()  # a password costs the service 150 ms to check: calls at once share one login

    async def current(self, login: Login) -> str:
        async with self._lock:
            if self._token is None or datetime.now(UTC) >= self._token.expires_at - self._margin:
                self._token = await login(self._username, self._password)
            return self._token.text

    async def renew(self, rejected: str, login: Login) -> str | None:
        async with self._lock:
            if self._token is None or self._token.text == rejected:
                self._token = await login(self._username, self._password)
            return self._token.text

"""Where a client has its token from. Nothing here knows how a login travels: that is handed in.

How long a token works is for the service to say, by its clock: nothing here refuses one. What a client reckons with is
how long it has had the token, which only tells when to ask for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

MARGIN_SECONDS = 30.0  # before a token's end it is time for another; of a short one a fifth of its life


@dataclass(frozen=True, slots=True)
class Token:
    """What a login gives: the text to send, until when it works, when it was given, and until when the client's
    certificate works (None, the two of them: a service that does not tell). All by the service's clock."""

    text: str = field(repr=False)
    expires_at: datetime
    given_at: datetime | None = None
    certificate_expires_at: datetime | None = None

    @property
    def lifetime_seconds(self) -> float:
        """How long it works; without end where the service does not tell."""
        return float("inf") if self.given_at is None else (self.expires_at - self.given_at).total_seconds()

    def due_seconds(self, *, margin_seconds: float = MARGIN_SECONDS) -> float:
        """How long after it came it is time for another."""
        return max(self.lifetime_seconds - margin_seconds, self.lifetime_seconds * 4 / 5)


Login = Callable[[str, str], Awaitable[Token]]  # of a user name and a password
Password = str | Callable[[], str | Awaitable[str]]


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

    def __init__(self, username: str, password: Password, *, margin_seconds: float = MARGIN_SECONDS) -> None:
        """`password` is the text, or what is called for it at each login: a coroutine function, or a plain one, which
        is run in a thread. What that raises is raised by the call that needs the login."""
        self._username = username
        self._password = password
        self._margin_seconds = margin_seconds
        self._token: str | None = None
        self._due_at = 0.0  # by time.monotonic()
        self._lock = asyncio.Lock()  # a password costs the service 150 ms to check: calls at once share one login

    async def current(self, login: Login) -> str:
        async with self._lock:
            if self._token is None:
                return await self._log_in(login)
            if time.monotonic() >= self._due_at:
                self._due_at = float("inf")  # where this fails, the token goes on until it is refused
                with contextlib.suppress(Exception):
                    await self._log_in(login)
            return self._token

    async def renew(self, rejected: str, login: Login) -> str | None:
        async with self._lock:
            if self._token is None or self._token == rejected:
                await self._log_in(login)
            return self._token

    async def _log_in(self, login: Login) -> str:
        token = await login(self._username, await password_text(self._password))
        self._token = token.text
        self._due_at = time.monotonic() + token.due_seconds(margin_seconds=self._margin_seconds)
        return self._token


async def password_text(password: Password) -> str:
    """The password, asked for if need be."""
    if isinstance(password, str):
        return password
    if inspect.iscoroutinefunction(password):
        asked = await password()
    else:
        asked = await asyncio.to_thread(password)
        if inspect.isawaitable(asked):
            asked = await asked
    if not isinstance(asked, str):
        raise TypeError("a password is a str")
    return asked

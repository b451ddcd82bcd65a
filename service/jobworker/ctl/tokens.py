"""Tokens kept between commands: one file for each service, user and key, readable by its owner alone.

Each is sent as it is, however old this machine's clock makes it: the service says when one has expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jobworker.client import Token, UnauthenticatedError
from jobworker.ctl.exits import complain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jobworker.client.clock import ServerClock
    from jobworker.client.tokens import Login


_TIMES = ("expires_at", "given_at", "certificate_expires_at")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1


class TokenFile:
    """The token for one service, user and key; also the TokenSource of a client."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str,
        user: str,
        key_id: str,
        password: Callable[[], str] | None = None,
        clock: ServerClock | None = None,
    ) -> None:
        """`key_id` is of the certificate's key, which a token is bound to. `password` is called, in a thread, where a
        token is missing, refused or about to expire; None: only `save` brings one. `clock` hears what a kept token
        tells of the service's.
        """
        self.path = folder / f"{quote(address, safe=':')}_{quote(user, safe='')}_{key_id}.json"
        self.user = user
        self._whose = f"{user} at {address}"
        self._password = password
        self._clock = clock
        self._refresh = True
        self._unsaved: tuple[Token, float] | None = None  # and when it came, by time.monotonic()
        self._complained = False
        self._lock = asyncio.Lock()

    def save(self, token: Token) -> None:
        """Keeps a token, in place of the one before."""
        content = {
            "access_token": token.text,
            "received_at": time.time(),
            **{name: (at := getattr(token, name)) and at.isoformat() for name in _TIMES},
        }
        folder = self.path.parent
        # Of those above, such as ~/.cache, missing ones are ours alone as well: the XDG Base Directory Specification.
        for missing in reversed([above for above in (folder, *folder.parents) if not above.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        # mkstemp makes it 0600, and the rename keeps that: there is no moment at which others could read it.
        descriptor, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    def text(self) -> str | None:
        """The token that is kept."""
        kept = self._load()
        return None if kept is None else kept.token.text

    def forget(self) -> bool:
        """Removes the token; whether there was one."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True

    def certificate_ends(self) -> tuple[datetime, float] | None:
        """When the certificate ends that the token is bound to, as the last login told, and in how many seconds by the
        service's clock; None: it is not known."""
        kept = self._load()
        if kept is None or kept.token.given_at is None or kept.token.certificate_expires_at is None:
            return None
        left = kept.token.certificate_expires_at - kept.token.given_at
        return kept.token.certificate_expires_at, left.total_seconds() - max(kept.age_seconds, 0.0)

    async def current(self, login: Login) -> str:
        async with self._lock:
            kept = self._load()
            if kept is None:
                if self._password is None:
                    raise UnauthenticatedError(f"{self._whose} is not logged in", reason="TOKEN_MISSING")
                return await self._log_in(login)
            if self._password is not None and self._refresh and kept.age_seconds >= kept.token.due_seconds():
                self._refresh = False  # where this fails, the token goes on until it is refused
                with contextlib.suppress(Exception):
                    return await self._log_in(login)
            return kept.token.text

    async def renew(self, rejected: str, login: Login) -> str | None:
        """What another `jobctl login` may have left meanwhile, or that of a login now."""
        async with self._lock:
            kept = self._load()
            if kept is not None and kept.token.text != rejected:
                return kept.token.text
            return None if self._password is None else await self._log_in(login)

    async def _log_in(self, login: Login) -> str:
        assert self._password is not None  # noqa: S101 - whoever calls has looked
        token = await login(self.user, await asyncio.to_thread(self._password))
        self._refresh = True
        self._unsaved = None
        try:
            self.save(token)
        except OSError as error:  # a container's read-only disk: the password is there for the next command as well
            if not self._complained:
                complain(f"{self.path.parent}: {error.strerror}: the token is kept for this command alone")
            self._complained = True
            self._unsaved = token, time.monotonic()
        return token.text

    def _load(self) -> _Kept | None:
        if self._unsaved is not None:
            return _Kept(self._unsaved[0], time.monotonic() - self._unsaved[1])
        try:
            kept = _Kept.of(json.loads(self.path.read_bytes()), now=time.time())
            since_given = 0 <= kept.age_seconds <= kept.token.lifetime_seconds
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None  # not as `save` writes it: the next login replaces it
        if self._clock is not None and kept.token.given_at is not None and since_given:
            self._clock.learn(kept.token.given_at.timestamp() + kept.age_seconds)
        self._clock = None  # what is heard later is newer
        return kept


@dataclass(frozen=True)
class _Kept:
    token: Token
    age_seconds: float  # since it came, by this machine's clock, which may have been set since

    @classmethod
    def of(cls, content: dict[str, Any], *, now: float) -> _Kept:
        """Raises what wrong types and forms raise."""
        expires, given, certificate = (
            None if content[name] is None else datetime.fromisoformat(content[name]) for name in _TIMES
        )
        # Another text is not a header, and gRPC's refusal of it would look like a failure of ours.
        if expires is None or not _TOKEN.fullmatch(content["access_token"]):
            raise ValueError("no token")
        token = Token(content["access_token"], expires, given_at=given, certificate_expires_at=certificate)
        return cls(token, now - float(content["received_at"]))


def forget_all(folder: Path) -> int:
    """Removes every token; how many there were."""
    count = 0
    for path in (*folder.glob("*.json"), *folder.glob("*.told")):
        path.unlink(missing_ok=True)
        count += path.suffix == ".json"
    return count

"""Tokens kept between commands: one file for each service and user, readable by its owner alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from jobworker.client import Token, UnauthenticatedError

if TYPE_CHECKING:
    from pathlib import Path

    from jobworker.client.tokens import Login


_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1


class TokenFile:
    """The token for one service and user; also the TokenSource of a client."""

    def __init__(self, folder: Path, *, address: str, user: str) -> None:
        self._path = folder / f"{quote(address, safe=':')}_{quote(user, safe='')}.json"
        self._whose = f"{user} at {address}"

    def save(self, token: Token) -> None:
        """Keeps a token, in place of the one before."""
        content = {"access_token": token.text, "expires_at": token.expires_at.isoformat()}
        folder = self._path.parent
        # Of those above, such as ~/.cache, missing ones are ours alone as well: the XDG Base Directory Specification.
        for missing in reversed([above for above in (folder, *folder.parents) if not above.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        # mkstemp makes it 0600, and the rename keeps that: there is no moment at which others could read it.
        descriptor, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise

    async def current(self, login: Login) -> str:  # noqa: ARG002 - a login takes a password
        token = self._load()
        if token is None:
            raise UnauthenticatedError(f"{self._whose} is not logged in", reason="TOKEN_MISSING")
        if token.expires_at <= datetime.now(UTC):
            raise UnauthenticatedError(f"the login of {self._whose} has expired", reason="TOKEN_EXPIRED")
        return token.text

    async def renew(self, rejected: str, login: Login) -> str | None:  # noqa: ARG002
        """What another `jobctl login` may have left meanwhile."""
        token = self._load()
        return None if token is None or token.text == rejected else token.text

    def _load(self) -> Token | None:
        try:
            content = json.loads(self._path.read_bytes())
            token = Token(content["access_token"], datetime.fromisoformat(content["expires_at"]))
            # Anything else is no header, and gRPC's refusal of it would look like a failure of ours.
            return token if _TOKEN.fullmatch(token.text) else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):  # not as `save` writes it: the next login replaces it
            return None

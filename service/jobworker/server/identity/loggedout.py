"""The tokens that their users have ended, in a file of the data folder: the service may not write the PKI folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jobpki.errors import PkiError
from jobpki.revokedtokens import add_revoked_tokens, read_revoked_tokens
from jobworker.server.errors import UnavailableError, service_trouble
from jobworker.server.identity.current import Current

_RETRY_SECONDS = 5.0


class LoggedOut:
    """Of the event loop's thread."""

    def __init__(self, path: Path, *, clock: Callable[[], float], on_problem: Callable[[str], object]) -> None:
        """`clock` gives seconds since 1970.

        Raises:
            PkiError: the file cannot be used.
        """
        self._path = path
        self._clock = clock
        self._alone = asyncio.Lock()
        self.file: Current[Mapping[str, datetime]] = Current(
            path, read=partial(read_revoked_tokens, path), what="the tokens that were logged out", on_problem=on_problem
        )

    async def add(self, token_id: str, *, expires_at: float) -> None:
        """Puts a token down until it ends by itself, and forgets those that have.

        Raises:
            ExhaustedError, UnavailableError: it cannot be written now.
        """
        until = datetime.fromtimestamp(expires_at, UTC)
        now = datetime.fromtimestamp(self._clock(), UTC)
        async with self._alone:
            try:
                await asyncio.to_thread(add_revoked_tokens, self._path, [token_id], now=now, until=until)
            except OSError as error:
                raise service_trouble(error) or _unavailable(error.strerror or "the disk fails") from error
            except PkiError as error:
                raise _unavailable("the list of ended tokens is damaged") from error
        self.file.get()


def _unavailable(why: str) -> UnavailableError:
    return UnavailableError(f"the token could not be ended: {why}", retry_after_seconds=_RETRY_SECONDS)

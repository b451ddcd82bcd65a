"""Certificates, authorities, users and revocations that change while the service runs: the listeners take the new ones,
and calls that last end when their callers may not call any more."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobpki.errors import PkiError
from jobpki.examine import with_remedy
from jobpki.layout import Layout
from jobworker.server.errors import JobworkerError, PermissionDeniedError, UnauthenticatedError
from jobworker.server.identity.gate import Identity
from jobworker.server.identity.tls import CurrentTls
from jobworker.server.reach import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from jobworker.server.identity.tls import TlsMaterial
    from jobworker.server.rpc.call import Call, Calls, Principal
    from jobworker.server.slices import Slices
    from jobworker.server.telemetry.log import Log

# A bundle is taken at the second look after it changed, and a call ends at the first: well within 5 seconds.
_LOOK_SECONDS = 1.0
LOGGED_OUT = "logged-out.json"  # in the data folder


def load(
    pki: Path, *, data: Path, token_lifetime_seconds: float, on_problem: Callable[[str], object]
) -> tuple[CurrentTls, Identity]:
    """The server's bundle, and who tells callers by the files of `<pki>/auth` and the logouts in the data folder.

    Raises:
        StartError: they cannot be used; says what to do.
    """
    try:
        tls = CurrentTls(pki, clock=lambda: datetime.now(UTC), on_problem=on_problem)
        identity = Identity(
            pki=pki,
            logged_out=data / LOGGED_OUT,
            trust_domain=tls.material.trust_domain,
            token_lifetime_seconds=token_lifetime_seconds,
            clock=time.time,
            monotonic=time.monotonic,
            on_problem=on_problem,
        )
    except PkiError as e:
        raise StartError(str(with_remedy(Layout(pki), e))) from e
    return tls, identity


class CredentialWatch:
    """`start`, then `close`; on the event loop alone."""

    def __init__(
        self,
        *,
        tls: CurrentTls,
        identity: Identity,
        denied: Callable[[str], None],
        record: Callable[[str, Mapping[str, object]], object],
        slices: Slices,
        clock: Callable[[], float],
        shown: Callable[[str], str],
        log: Log,
    ) -> None:
        """`denied` is told the reason of each call that is ended, `record` which files were taken anew; `clock` gives
        seconds since 1970, as `identity` has it; `shown` puts into a text the names of files as people know them."""
        self._tls = tls
        self._identity = identity
        self._denied = denied
        self._record = record
        self._slices = slices
        self._clock = clock
        self._shown = shown
        self._log = log
        self._seen = identity.look()
        self._roles = identity.roles
        self._task: asyncio.Task[None] | None = None

    def start(self, *, calls: Calls, use: Iterable[Callable[[TlsMaterial], None]]) -> None:
        """Begins to look. `use`: have the listeners take another key, certificate or authority."""
        self._task = asyncio.get_running_loop().create_task(self._run(calls, tuple(use)))

    async def close(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def files(self) -> dict[str, str | None]:
        """What is wrong with each kind of file now, by its name in the metric; None: nothing is."""
        return {"server_certificate": self._tls.problem, **self._identity.problems}

    def problems(self) -> Iterator[str]:
        """The same, of those with which something is wrong."""
        return (self._shown(problem) for problem in self.files.values() if problem is not None)

    async def _run(self, calls: Calls, use: tuple[Callable[[TlsMaterial], None], ...]) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look(calls, use)
            except Exception as error:  # out of descriptors, say: the next look may do
                self._log.error("certificates and users could not be looked at", problem=repr(error))

    async def _look(self, calls: Calls, use: tuple[Callable[[TlsMaterial], None], ...]) -> None:
        taken = ["server_certificate"] if self._tls.look() else []
        if taken:
            for listener in use:
                listener(self._tls.material)
            self._identity.trust(self._tls.material.ca_pem)
            self._log.info(
                "certificates changed", **{name: f"{end:%Y-%m-%dT%H:%M:%SZ}" for name, end in self._tls.expiries()}
            )
        seen = self._identity.look()
        files = zip(self._identity.problems, seen, self._seen, strict=True)
        taken += [name for name, one, other in files if one is not other]
        self._seen = seen
        if taken:
            self._record("credentials.change", {"files": taken})
        changed = bool(taken) or self._identity.roles is not self._roles
        self._roles = self._identity.roles
        async for call in self._slices.each(calls.open_ended):
            assert call.principal is not None  # noqa: S101  (they have one)
            if changed or call.principal.expires_at <= self._clock():
                self._ask_again(call, call.principal)

    def _ask_again(self, call: Call, before: Principal) -> None:
        try:
            now = self._identity.authenticate(
                method=call.method, certificate_pem=call.certificate_pem, authorization=call.authorization
            )
            if (now.role, now.sees_all) != (before.role, before.sees_all):
                raise PermissionDeniedError(f"the role of {before.user} was changed: call again")
        except JobworkerError as error:
            if isinstance(error, (UnauthenticatedError, PermissionDeniedError)):
                self._denied(error.reason)
            call.cut(error)

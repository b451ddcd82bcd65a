"""A login: the certificate's user, the right password, and not too many wrong ones.

Every refusal is the same LOGIN_FAILED, so that none tells which part was wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from jobpki.users import PASSWORD_BYTES_MAX
from jobworker.server.errors import AuthReason, ExhaustedError, UnauthenticatedError
from jobworker.server.identity.certificate import ClientCertificate
from jobworker.server.identity.passwords import PasswordChecker
from jobworker.server.identity.token import IssuedToken, Tokens
from jobworker.server.identity.users import Users

# Argon2id (4 lanes, 64 MiB, 3 passes) of no password: unknown users are checked against it and cost the same time.
_DECOY_HASH = "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
_CHECKING_MAX = 4  # of one user at a time: the others' places in the queue stay theirs
_FAILURES_MAX = 10
_FAILURE_WINDOW_SECONDS = 60.0


class Login:
    """Checks logins and issues tokens."""

    def __init__(self, *, users: Users, passwords: PasswordChecker, tokens: Tokens, clock: Callable[[], float]) -> None:
        self._users = users
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        # User -> times of the last failures. Only holders of the user's own certificate get here, so a lockout hits
        # nobody else, and there are no more entries than certificates.
        self._failures: dict[str, list[float]] = {}
        self._checking: Counter[str] = Counter()

    async def login(self, certificate: ClientCertificate, *, username: str, password: str) -> IssuedToken:
        """A token for the certificate's user.

        Raises:
            UnauthenticatedError: LOGIN_FAILED.
            ExhaustedError: too many wrong passwords of this user, or too many logins at a time.
        """
        # Whose certificate it is, the caller knows: to refuse another's name at once tells nothing new.
        if username != certificate.user or not password or len(password.encode()) > PASSWORD_BYTES_MAX:
            raise _failed()
        self._check_limits(username)
        user = self._users.get(username)
        self._checking[username] += 1
        try:
            matches = await self._passwords.matches(password, _DECOY_HASH if user is None else user.password_hash)
        finally:
            self._checking[username] -= 1
        if user is None or not matches:
            self._failures.setdefault(username, []).append(self._clock())
            raise _failed()
        self._failures.pop(username, None)
        return self._tokens.issue(user=username, thumbprint=certificate.thumbprint, now=self._clock())

    def _check_limits(self, user: str) -> None:
        if self._checking[user] >= _CHECKING_MAX:
            raise ExhaustedError("too many logins at a time", subject=f"user:{user}", retry_after_seconds=1.0)
        failures = self._failures.get(user)
        if failures is None:
            return
        now = self._clock()
        recent = [time for time in failures if now - time < _FAILURE_WINDOW_SECONDS]
        if not recent:
            del self._failures[user]
            return
        self._failures[user] = recent
        if len(recent) >= _FAILURES_MAX:
            raise ExhaustedError(
                "too many failed logins",
                subject=f"user:{user}",
                retry_after_seconds=max(1.0, recent[0] + _FAILURE_WINDOW_SECONDS - now),
            )


def _failed() -> UnauthenticatedError:
    return UnauthenticatedError(
        AuthReason.LOGIN_FAILED, "the login failed: user name, password and certificate must belong together"
    )

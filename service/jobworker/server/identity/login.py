"""A login: the certificate's user, the right password, and not too many wrong ones.

Every refusal is the same LOGIN_FAILED, so that none tells which part was wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobpki.passwords import PASSWORD_BYTES_MAX
from jobworker.server.errors import AuthReason, ExhaustedError, UnauthenticatedError
from jobworker.server.identity.certificate import ClientCertificate
from jobworker.server.identity.passwords import PasswordChecker
from jobworker.server.identity.token import Tokens
from jobworker.server.identity.users import Users, login_stamp

# Argon2id (4 lanes, 64 MiB, 3 passes) of no password: unknown users are checked against it and cost the same time.
_DECOY_HASH = "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
_FAILURES_MAX = 10
_FAILURE_WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a login gives: the token, when it and the certificate that it is bound to stop working, and when it was
    given. Times are seconds since 1970."""

    access_token: str
    token_id: str
    expires_at_unix: int
    certificate_expires_at_unix: float
    given_at_unix: float


class Login:
    """Checks logins and issues tokens."""

    def __init__(
        self,
        *,
        users: Users,
        passwords: PasswordChecker,
        tokens: Tokens,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._monotonic = monotonic
        # By the certificate's key: times of the last failures. Who guesses with one certificate locks out that one, and
        # not the same user's others; and there are no more entries than certificates.
        self._failures: dict[str, list[float]] = {}

    async def login(self, certificate: ClientCertificate, *, username: str, password: str) -> LoggedIn:
        """A token for the certificate's user.

        Raises:
            UnauthenticatedError: LOGIN_FAILED.
            ExhaustedError: too many wrong passwords over this certificate, or too many logins at a time.
            UnavailableError: the password could not be checked in time.
        """
        # Whose certificate it is, the caller knows: to refuse another's name at once tells nothing new.
        if username != certificate.user or not _may_be_password(password):
            raise _failed()
        key = certificate.thumbprint
        self._check_failures(username, key)
        user = self._users.get(username)
        # One who is disabled is refused as late as one with a wrong password.
        password_hash = _DECOY_HASH if user is None else user.password_hash
        matches = await self._passwords.matches(password, password_hash, name=key, subject=f"user:{username}")
        # As it is now: it may have been changed, disabled or removed while the password was checked.
        now = self._users.get(username)
        if not matches or user is None or now is None or now.disabled or login_stamp(now) != login_stamp(user):
            self._failures.setdefault(key, []).append(self._monotonic())
            raise _failed()
        self._failures.pop(key, None)
        given_at = self._clock()
        token = self._tokens.issue(user=username, thumbprint=key, login=login_stamp(user), now=given_at)
        return LoggedIn(
            access_token=token.access_token,
            token_id=token.token_id,
            expires_at_unix=token.expires_at_unix,
            certificate_expires_at_unix=certificate.not_after,
            given_at_unix=given_at,
        )

    def _check_failures(self, user: str, key: str) -> None:
        failures = self._failures.get(key)
        if failures is None:
            return
        now = self._monotonic()
        recent = [time for time in failures if now - time < _FAILURE_WINDOW_SECONDS]
        if not recent:
            del self._failures[key]
            return
        self._failures[key] = recent
        if len(recent) >= _FAILURES_MAX:
            raise ExhaustedError(
                "too many failed logins",
                subject=f"user:{user}",
                retry_after_seconds=max(1.0, recent[0] + _FAILURE_WINDOW_SECONDS - now),
            )


def _may_be_password(text: str) -> bool:
    # Characters first: a text of megabytes is not encoded to find that it is too long.
    if not 0 < len(text) <= PASSWORD_BYTES_MAX:
        return False
    try:
        return len(text.encode()) <= PASSWORD_BYTES_MAX
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can name
        return False


def _failed() -> UnauthenticatedError:
    return UnauthenticatedError(
        AuthReason.LOGIN_FAILED, "the login failed: user name, password and certificate must belong together"
    )

"""The front door: who calls, and whether they may call this method. Every call passes here, whatever it came over.

Knows no gRPC and no HTTP: it is handed the method's name, the peer's certificate and the authorization value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from jobpki import keys
from jobpki.access import read_secret
from jobpki.layout import Layout
from jobworker.server.errors import AuthReason, PermissionDeniedError, UnauthenticatedError
from jobworker.server.identity.certificate import HEALTH, Certificates
from jobworker.server.identity.login import Login
from jobworker.server.identity.passwords import PasswordChecker
from jobworker.server.identity.roles import HEALTH_METHODS, least_role
from jobworker.server.identity.token import IssuedToken, Tokens
from jobworker.server.identity.users import Users
from jobworker.server.identity.who import Principal, Role

# RFC 6750 section 2.1. Schemes are in any case (RFC 9110 section 11.1), and white space around is no part of it (5.5).
_BEARER = re.compile(r"[ \t]*bearer +([A-Za-z0-9._~+/-]+=*)[ \t]*", re.ASCII | re.IGNORECASE)


class Identity:
    """Authenticates calls and logs users in, from the files of `<pki>/auth`. On the event loop's thread alone."""

    def __init__(
        self,
        *,
        pki: Path,
        trust_domain: str,
        token_lifetime_seconds: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        on_problem: Callable[[str], object],
    ) -> None:
        """Reads the token key and the users file.

        Args:
            pki: the PKI folder.
            trust_domain: of the users' SPIFFE IDs, as `tls.load_tls` found it in the server's certificate.
            token_lifetime_seconds: how long a token works.
            clock: seconds since 1970: what tokens and certificates go by.
            monotonic: seconds: what the wait after wrong passwords goes by.
            on_problem: told in one line that a changed users file is damaged and the last good one stays in force, or
                that a password takes too long to check.

        Raises:
            PkiError: one of the two files cannot be used, or others may read or change it; names it.
            ThreadsError: the threads that check passwords could not be started.
        """
        layout = Layout(pki)
        key = keys.p256_from_pem(read_secret(layout.token_key), layout.token_key)
        self._users = Users(layout.users, on_problem=on_problem)
        self._certificates = Certificates(trust_domain=trust_domain)
        self._tokens = Tokens(key=key, trust_domain=trust_domain, lifetime_seconds=token_lifetime_seconds)
        self.passwords = PasswordChecker(on_problem=on_problem)
        self._login = Login(
            users=self._users, passwords=self.passwords, tokens=self._tokens, clock=clock, monotonic=monotonic
        )
        self._clock = clock

    def configure(self, *, token_lifetime_seconds: float) -> None:
        """Another lifetime, of tokens given out from now on."""
        self._tokens.configure(lifetime_seconds=token_lifetime_seconds)

    def role_of(self, user: str) -> Role | None:
        """The role that a user has now; None: there is no such user."""
        known = self._users.get(user)
        return None if known is None else known.role

    def authenticate(self, *, method: str, certificate_pem: bytes | None, authorization: str | None) -> Principal:
        """The caller of a method, who may call it.

        Args:
            method: its full name, `/jobworker.v1.JobQueryService/GetBatch`.
            certificate_pem: the peer's certificate, from the TLS layer.
            authorization: the value of the `authorization` metadata, `Bearer <token>`.

        Raises:
            UnauthenticatedError: certificate, token or user do not establish who calls; the reason says which.
            PermissionDeniedError: the role is not enough.
        """
        now = self._clock()
        certificate = self._certificates.read(certificate_pem, now=now)
        if certificate.user == HEALTH and method not in HEALTH_METHODS:
            raise PermissionDeniedError("this certificate is for health checks alone")
        least = least_role(method)
        if least is None:
            known = self._users.get(certificate.user)
            return Principal(
                user=certificate.user,
                role=None if known is None else known.role,
                token_expires_at=None,
                certificate_expires_at=certificate.not_after,
                serial=certificate.serial,
            )
        claims = self._tokens.verify(
            _bearer(authorization), user=certificate.user, thumbprint=certificate.thumbprint, now=now
        )
        user = self._users.get(certificate.user)
        if user is None:
            raise UnauthenticatedError(AuthReason.USER_UNKNOWN, f"there is no user {certificate.user} any more")
        if user.role < least:
            raise PermissionDeniedError(f"this takes the role {least}; {certificate.user} is {user.role}")
        return Principal(
            user=certificate.user,
            role=user.role,
            token_expires_at=claims.expires_at,
            certificate_expires_at=certificate.not_after,
            serial=certificate.serial,
        )

    async def login(self, *, certificate_pem: bytes | None, username: str, password: str) -> IssuedToken:
        """A token for the user that the certificate names.

        Raises:
            UnauthenticatedError: CERTIFICATE_INVALID or LOGIN_FAILED.
            ExhaustedError: too many logins at a time, or too many failed ones over this certificate.
            UnavailableError: the password could not be checked in time.
        """
        certificate = self._certificates.read(certificate_pem, now=self._clock())
        return await self._login.login(certificate, username=username, password=password)

    def close(self) -> None:
        """Ends the threads that check passwords."""
        self.passwords.close()


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise UnauthenticatedError(AuthReason.TOKEN_MISSING, "a token is needed: log in first")
    found = _BEARER.fullmatch(authorization)
    if found is None:
        raise UnauthenticatedError(AuthReason.TOKEN_MALFORMED, "the authorization is not of the form: Bearer <token>")
    return found[1]

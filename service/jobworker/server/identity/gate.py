"""The front door: who calls, and whether they may call this method. Every call passes here, whatever it came over.

Knows no gRPC and no HTTP: it is handed the method's name, the peer's certificate and the authorization value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from jobpki import keys
from jobpki.access import read_public, read_secret
from jobpki.bundle import load_certificates
from jobpki.layout import CA_FILE, Layout
from jobpki.revocation import Identifier, Revoked, read_revoked
from jobpki.revokedtokens import read_revoked_tokens
from jobworker.server.errors import AuthReason, PermissionDeniedError, UnauthenticatedError
from jobworker.server.identity.certificate import HEALTH, Certificates
from jobworker.server.identity.current import Current
from jobworker.server.identity.loggedout import LoggedOut
from jobworker.server.identity.login import LoggedIn, Login
from jobworker.server.identity.passwords import PasswordChecker
from jobworker.server.identity.roles import HEALTH_METHODS, Rights, is_for_everyones, rights_for
from jobworker.server.identity.token import Tokens
from jobworker.server.identity.users import Users, login_stamp
from jobworker.server.identity.who import Principal
from jobworker.server.rights import ROLES, Right

# RFC 6750 section 2.1. Schemes are in any case (RFC 9110 section 11.1), and white space around is no part of it (5.5).
_BEARER = re.compile(r"[ \t]*bearer +([A-Za-z0-9._~+/-]+=*)[ \t]*", re.ASCII | re.IGNORECASE)


class Identity:
    """Authenticates calls and logs users in, from the files of `<pki>/auth`. On the event loop's thread alone."""

    def __init__(
        self,
        *,
        pki: Path,
        logged_out: Path,
        trust_domain: str,
        token_lifetime_seconds: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        on_problem: Callable[[str], object],
    ) -> None:
        """Reads the token keys, the users file, the CRL and the revoked tokens; each is read again when it changes.

        Args:
            pki: the PKI folder.
            logged_out: the file of the tokens that their users have ended; it is made when the first one is.
            trust_domain: of the users' SPIFFE IDs, as `tls.load_tls` found it in the server's certificate.
            token_lifetime_seconds: how long a token works.
            clock: seconds since 1970: what tokens and certificates go by.
            monotonic: seconds: what the wait after wrong passwords goes by.
            on_problem: told in one line that a changed file is damaged and the last good one stays in force, or that
                a password takes too long to check.

        Raises:
            PkiError: one of the files cannot be used, or others may read or change it; names it.
            ThreadsError: the threads that check passwords could not be started.
        """
        layout = Layout(pki)
        self._keys = Current(
            layout.token_key,
            read=partial(_token_keys, layout.token_key),
            what="the token keys",
            on_problem=on_problem,
        )
        self._users = Users(layout.users, on_problem=on_problem)
        ca = layout.server / CA_FILE
        revoked = Current(
            layout.crl, ca, read=partial(_revoked, layout.crl, ca), what="the revocations", on_problem=on_problem
        )
        tokens = layout.revoked_tokens
        self._revoked_tokens = Current(
            tokens, read=partial(read_revoked_tokens, tokens), what="the revoked tokens", on_problem=on_problem
        )
        self._logged_out = LoggedOut(logged_out, clock=clock, on_problem=on_problem)
        self._files: dict[str, Current[Any]] = {
            "token_keys": self._keys,
            "users": self._users.file,
            "revocations": revoked,
            "revoked_tokens": self._revoked_tokens,
            "logged_out": self._logged_out.file,
        }
        self._certificates = Certificates(trust_domain=trust_domain, revoked=revoked.get)
        self.trust(read_public(ca))
        self._keys_used = self._keys.get()
        self._tokens = Tokens(keys=self._keys_used, trust_domain=trust_domain, lifetime_seconds=token_lifetime_seconds)
        self.passwords = PasswordChecker(on_problem=on_problem)
        self._login = Login(
            users=self._users, passwords=self.passwords, tokens=self._tokens, clock=clock, monotonic=monotonic
        )
        self._clock = clock
        self._on_problem = on_problem
        self.roles: Mapping[str, Rights] = ROLES  # another object once they change
        self._told: set[str] = set()

    def configure(self, *, token_lifetime_seconds: float, roles: Mapping[str, Sequence[Right]]) -> None:
        """Another lifetime, of tokens given out from now on; and the roles that there are beside the service's own."""
        self._tokens.configure(lifetime_seconds=token_lifetime_seconds)
        found = {**{name: frozenset(rights) for name, rights in roles.items()}, **ROLES}
        if found != self.roles:
            self.roles = found
        self._told &= set(self.problems_of_roles())

    def trust(self, ca_pem: bytes) -> None:
        """The authorities that the listeners trust from now on; see Certificates."""
        self._certificates.trust(x509.load_pem_x509_certificates(ca_pem))

    def look(self) -> tuple[object, ...]:
        """Reads what has changed. What is in force; as long as none of it does, these are the same objects."""
        return tuple(file.get() for file in self._files.values())

    @property
    def problems(self) -> dict[str, str | None]:
        """What is wrong with each file now, as of the last look at it."""
        return {name: file.problem for name, file in self._files.items()}

    def problems_of_roles(self) -> Iterator[str]:
        """Users with a role that there is not, now."""
        for name, user in self._users.all().items():
            if user.role not in self.roles:
                yield self._unknown_role(name, user.role)

    def role_of(self, user: str) -> str | None:
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
        needed = rights_for(method)
        if needed is None:
            known = self._users.get(certificate.user)
            return Principal(
                user=certificate.user,
                role=None if known is None else known.role,
                rights=frozenset(),
                sees_all=False,
                token_expires_at=None,
                certificate_expires_at=certificate.not_after,
                serial=certificate.serial,
            )
        self._take_keys()
        claims = self._tokens.verify(
            _bearer(authorization), user=certificate.user, thumbprint=certificate.thumbprint, now=now
        )
        user = self._users.get(certificate.user)
        if user is None:
            raise UnauthenticatedError(
                AuthReason.USER_UNKNOWN, f"there is no user {certificate.user} any more", token_id=claims.token_id
            )
        if user.disabled:
            raise UnauthenticatedError(
                AuthReason.USER_DISABLED, f"the user {certificate.user} is disabled", token_id=claims.token_id
            )
        if claims.login != login_stamp(user):
            message = "the password was changed, or the user was disabled, since the login: log in again"
            raise UnauthenticatedError(AuthReason.TOKEN_EXPIRED, message, token_id=claims.token_id)
        if claims.token_id in self._logged_out.file.get():
            message = "the token was logged out: log in again"
            raise UnauthenticatedError(AuthReason.TOKEN_EXPIRED, message, token_id=claims.token_id)
        is_before = user.tokens_from is not None and claims.issued_at < user.tokens_from.timestamp()
        if is_before or claims.token_id in self._revoked_tokens.get():
            message = "the token was revoked: log in again"
            raise UnauthenticatedError(AuthReason.TOKEN_EXPIRED, message, token_id=claims.token_id)
        rights = self.roles.get(user.role)
        if rights is None:
            self._unknown_role(certificate.user, user.role)
            rights = frozenset()
        granted = rights & needed
        if needed and not granted:
            takes = " or ".join(sorted(needed))
            message = f"this takes the right {takes}; {certificate.user} is {user.role}"
            raise PermissionDeniedError(message, token_id=claims.token_id)
        return Principal(
            user=certificate.user,
            role=user.role,
            rights=rights,
            sees_all=is_for_everyones(granted),
            token_expires_at=claims.expires_at,
            certificate_expires_at=certificate.not_after,
            serial=certificate.serial,
            token_id=claims.token_id,
        )

    def holder(self, certificate_pem: bytes | None) -> tuple[str, int] | None:
        """User and serial of a certificate, whether it is valid now or not; None: it names no user here."""
        return self._certificates.holder(certificate_pem)

    async def login(self, *, certificate_pem: bytes | None, username: str, password: str) -> LoggedIn:
        """A token for the user that the certificate names.

        Raises:
            UnauthenticatedError: CERTIFICATE_INVALID, CERTIFICATE_REVOKED or LOGIN_FAILED.
            ExhaustedError: too many logins at a time, or too many failed ones over this certificate.
            UnavailableError: the password could not be checked in time.
        """
        certificate = self._certificates.read(certificate_pem, now=self._clock())
        self._take_keys()
        return await self._login.login(certificate, username=username, password=password)

    async def logout(self, token_id: str, *, expires_at: float) -> None:
        """Ends a token for ever, on disk when this returns. `expires_at`: when it ends by itself, seconds since 1970.

        Raises:
            ExhaustedError, UnavailableError: it cannot be put down now; the token works on.
        """
        await self._logged_out.add(token_id, expires_at=expires_at)

    def close(self) -> None:
        """Ends the threads that check passwords."""
        self.passwords.close()

    def _unknown_role(self, name: str, role: str) -> str:
        """What is wrong, in one line; told to the log once."""
        problem = f"the user {name} has the role {role}, which auth.roles does not have, and so no rights"
        if problem not in self._told:
            self._told.add(problem)
            self._on_problem(problem)
        return problem

    def _take_keys(self) -> None:
        found = self._keys.get()
        if found is not self._keys_used:
            self._keys_used = found
            self._tokens.use(found)


def _token_keys(path: Path) -> list[ec.EllipticCurvePrivateKey]:
    return keys.p256s_from_pem(read_secret(path), path)


def _revoked(path: Path, ca: Path) -> dict[Identifier, Revoked]:
    """Those of the authorities that the server trusts are checked to be signed by them."""
    if not path.exists():
        return {}
    return read_revoked(path, load_certificates(read_public(ca), ca))


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise UnauthenticatedError(AuthReason.TOKEN_MISSING, "a token is needed: log in first")
    found = _BEARER.fullmatch(authorization)
    if found is None:
        raise UnauthenticatedError(AuthReason.TOKEN_MALFORMED, "the authorization is not of the form: Bearer <token>")
    return found[1]

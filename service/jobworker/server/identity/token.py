"""Access tokens: JWT (RFC 7519) signed with ES256, bound to the key of the certificate they were issued over.

The binding is `cnf.jkt` (RFC 7800; the thumbprint of RFC 7638): a stolen token is worth nothing without the private key
of the certificate. Roles are not in it: they are looked up at each call. Knows no files and no users.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from jobworker.server.errors import AuthReason, UnauthenticatedError
from jobworker.server.identity.certificate import key_thumbprint

_ALGORITHM = "ES256"
_TOKEN_CHARACTERS_MAX = 4096  # ours have some 500; more is not worth a signature check
_JTI_BYTES = 16


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What a login gives: the token, its `jti`, and when it stops working, in whole seconds since 1970."""

    access_token: str
    token_id: str
    expires_at_unix: int


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a good token says; times in seconds since 1970."""

    user: str
    token_id: str
    issued_at: float
    expires_at: float
    login: str  # see users.login_stamp; empty in a token of a version before it


class Tokens:
    """Issues tokens with one key, and checks those of any. Not for several threads at a time."""

    def __init__(
        self,
        *,
        keys: Sequence[ec.EllipticCurvePrivateKey],
        trust_domain: str,
        lifetime_seconds: float,
        cached_tokens: int = 10_000,
    ) -> None:
        """`keys`: the first one signs; tokens of the others, which have signed before, are good as well."""
        # Issuer and audience are the same party: this service signs for itself (RFC 8725 sections 3.8 and 3.9).
        self._party = f"spiffe://{trust_domain}/server"
        self._lifetime_seconds = lifetime_seconds
        # (token, thumbprint) -> claims of a checked signature, the least recently used first. A check costs some 200
        # microseconds, which would be most of a small call.
        self._checked: OrderedDict[tuple[str, str], TokenClaims] = OrderedDict()
        self._cached_tokens = cached_tokens
        self.use(keys)

    def use(self, keys: Sequence[ec.EllipticCurvePrivateKey]) -> None:
        """Other keys, from now on."""
        self._key = keys[0]
        self._public_keys = {key_thumbprint(key.public_key()): key.public_key() for key in keys}
        self._key_id = key_thumbprint(self._key.public_key())
        self._checked.clear()

    def configure(self, *, lifetime_seconds: float) -> None:
        """Another lifetime, of tokens issued from now on."""
        self._lifetime_seconds = lifetime_seconds

    def issue(self, *, user: str, thumbprint: str, login: str, now: float) -> IssuedToken:
        """A token for a user, that works only together with the key of this thumbprint. `login`: users.login_stamp."""
        issued_at = int(now)
        expires_at = int(now + self._lifetime_seconds)
        token_id = secrets.token_urlsafe(_JTI_BYTES)
        claims = {
            "iss": self._party,
            "aud": self._party,
            "sub": user,
            "jti": token_id,
            "iat": issued_at,
            "exp": expires_at,
            "cnf": {"jkt": thumbprint},
            "login": login,
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._key_id})
        return IssuedToken(access_token=token, token_id=token_id, expires_at_unix=expires_at)

    def verify(self, token: str, *, user: str, thumbprint: str, now: float) -> TokenClaims:
        """The claims of a token, presented by a user with a certificate whose key has this thumbprint.

        Raises:
            UnauthenticatedError: TOKEN_MALFORMED (no JWT, or not signed by this service), TOKEN_EXPIRED, TOKEN_FOREIGN
                (this service's, but another user's or bound to another key).
        """
        cached = (token, thumbprint)
        claims = self._checked.get(cached)
        if claims is None:
            claims = self._check(token, thumbprint)
            self._remember(cached, claims)
        else:
            self._checked.move_to_end(cached)
        if now >= claims.expires_at:  # RFC 7519 section 4.1.4: on or after
            self._checked.pop(cached, None)
            raise UnauthenticatedError(
                AuthReason.TOKEN_EXPIRED, "the token has expired: log in again", token_id=claims.token_id
            )
        if claims.user != user:
            raise _foreign("the token is another user's", claims.token_id)
        return claims

    def _check(self, token: str, thumbprint: str) -> TokenClaims:
        if len(token) > _TOKEN_CHARACTERS_MAX:
            raise _malformed("the token is too long to be one of this service")
        try:
            # Ours name the key that signed them. One that names another was not made here, whatever its signature is
            # worth.
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._public_keys.get(key_id) if isinstance(key_id, str) else None
            if key is None:
                raise _malformed("the token names a key that is none of this service")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],  # never the token's own word for it (RFC 8725 section 3.1)
                issuer=self._party,
                audience=self._party,
                # The times are compared by `verify`, with the clock that was handed in.
                options={
                    "require": ["iss", "aud", "sub", "jti", "iat", "exp", "cnf"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.InvalidTokenError, ValueError) as error:  # ValueError: text that no header can be made of
            raise _malformed("the token is not one of this service") from error
        confirmation, login = claims["cnf"], claims.get("login", "")
        times = claims["iat"], claims["exp"]
        are_times = all(isinstance(time, int | float) for time in times)
        if not (isinstance(confirmation, dict) and are_times and isinstance(login, str)):
            raise _malformed("the token is not one of this service")
        if confirmation.get("jkt") != thumbprint:
            raise _foreign("the token is bound to the key of another certificate", claims["jti"])
        issued_at, expires_at = map(float, times)
        return TokenClaims(
            user=claims["sub"], token_id=claims["jti"], issued_at=issued_at, expires_at=expires_at, login=login
        )

    def _remember(self, cached: tuple[str, str], claims: TokenClaims) -> None:
        self._checked[cached] = claims
        if len(self._checked) > self._cached_tokens:
            self._checked.popitem(last=False)


def _malformed(message: str) -> UnauthenticatedError:
    return UnauthenticatedError(AuthReason.TOKEN_MALFORMED, message)


def _foreign(message: str, token_id: str) -> UnauthenticatedError:
    return UnauthenticatedError(AuthReason.TOKEN_FOREIGN, message, token_id=token_id)

"""The client's certificate: which user it names, and the key that tokens are bound to.

That it leads to one of this service's authorities was checked by the handshake. Whether it is valid *now* is checked
here at each call: a connection may live longer than the certificate it was opened with, and than the authority.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobpki.bundle import BROKEN, is_issued, spiffe_id
from jobpki.profiles import is_user_name
from jobpki.revocation import Identifier, identifier
from jobworker.server.errors import AuthReason, UnauthenticatedError

HEALTH = "(health)"  # stands for a user where the health check calls; no user can be called so
_CACHED_CERTIFICATES = 4096  # some 3 KB each; one is parsed again when more clients than this take turns
# RFC 7518 section 6.2.1.1 names these curves, and how many bytes a coordinate has.
_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a certificate says. Times are seconds since 1970."""

    user: str
    thumbprint: str  # RFC 7638, of the public key: the same after a renewal that keeps the key
    serial: int
    not_before: float
    not_after: float
    identifier: Identifier  # what it is called in a CRL


class Certificates:
    """Reads clients' certificates of one trust domain; each is parsed once."""

    def __init__(self, *, trust_domain: str, revoked: Callable[[], Container[Identifier]] = frozenset) -> None:
        """`revoked`: what is revoked now."""
        self._revoked = revoked
        self._forgotten: list[x509.Certificate] = []
        self._trusted: list[x509.Certificate] = []
        self._prefix = f"spiffe://{trust_domain}/user/"
        self._health = f"spiffe://{trust_domain}/health"
        self._parse = lru_cache(maxsize=_CACHED_CERTIFICATES)(self._read)

    def trust(self, authorities: Iterable[x509.Certificate]) -> None:
        """From now on these are the authorities. Certificates that one of those before has signed itself are refused,
        also on connections that were made before."""
        before, self._trusted = self._trusted, list(authorities)
        gone = [*self._forgotten, *before]
        self._forgotten = [authority for authority in dict.fromkeys(gone) if authority not in self._trusted]
        self._parse.cache_clear()

    def read(self, pem: bytes | None, *, now: float) -> ClientCertificate:
        """The certificate of a caller, valid at `now` (seconds since 1970).

        Raises:
            UnauthenticatedError: CERTIFICATE_INVALID: there is none, it names no user here, or is out of its time.
                CERTIFICATE_REVOKED.
        """
        if not pem:
            raise _invalid("a client certificate is needed")
        certificate = self._parse(pem)
        if now > certificate.not_after:
            raise _invalid("the client certificate has expired")
        if now < certificate.not_before:
            raise _invalid("the client certificate is not valid yet")
        if certificate.identifier in self._revoked():
            raise UnauthenticatedError(AuthReason.CERTIFICATE_REVOKED, "the client certificate is revoked")
        return certificate

    def holder(self, pem: bytes | None) -> tuple[str, int] | None:
        """User and serial of a certificate, expired or revoked ones too; None: it names no user here."""
        try:
            certificate = self._parse(pem) if pem else None
        except UnauthenticatedError:
            return None
        return None if certificate is None else (certificate.user, certificate.serial)

    def _read(self, pem: bytes) -> ClientCertificate:
        try:
            parsed = x509.load_pem_x509_certificate(pem)
            uri = spiffe_id(parsed)
            usages = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            thumbprint = key_thumbprint(parsed.public_key())
            named = identifier(parsed)  # the issuer's name is read when it is asked for
        except x509.ExtensionNotFound as error:
            raise _invalid("the certificate is not for clients") from error
        except BROKEN as error:
            raise _invalid("the client certificate cannot be read") from error
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
            raise _invalid("the certificate is not for clients")
        user = uri.removeprefix(self._prefix) if uri is not None and uri.startswith(self._prefix) else ""
        signed = partial(is_issued, parsed)
        if any(signed(by=gone) for gone in self._forgotten) and not any(signed(by=root) for root in self._trusted):
            raise _invalid("the client certificate is of an authority that is not trusted any more")
        if uri == self._health:
            user = HEALTH
        elif not is_user_name(user):
            raise _invalid("the client certificate names no user of this service")
        return ClientCertificate(
            user=user,
            thumbprint=thumbprint,
            serial=parsed.serial_number,
            not_before=parsed.not_valid_before_utc.timestamp(),
            not_after=parsed.not_valid_after_utc.timestamp(),
            identifier=named,
        )


def key_thumbprint(key: object) -> str:
    """The JWK thumbprint of a public key with SHA-256 (RFC 7638), base64url without padding.

    Raises:
        ValueError: it is of a kind without a registered JWK form here: not EC, RSA or Ed25519.
    """
    # Members in lexicographic order and no white space: RFC 7638 section 3.3.
    canonical = json.dumps(_jwk(key), sort_keys=True, separators=(",", ":"))
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _jwk(key: object) -> dict[str, str]:
    """The required members alone (RFC 7638 section 3.2; RFC 8037 section 2 for Ed25519)."""
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            curve, size = _CURVES[key.curve.name]
            point = key.public_numbers()
            x, y = (_base64url(value.to_bytes(size, "big")) for value in (point.x, point.y))
            return {"crv": curve, "kty": "EC", "x": x, "y": y}
        case rsa.RSAPublicKey():
            numbers = key.public_numbers()
            e, n = (_base64url(v.to_bytes((v.bit_length() + 7) // 8, "big")) for v in (numbers.e, numbers.n))
            return {"e": e, "kty": "RSA", "n": n}
        case ed25519.Ed25519PublicKey():
            raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
    raise ValueError("a public key of an unknown kind")


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _invalid(message: str) -> UnauthenticatedError:
    return UnauthenticatedError(AuthReason.CERTIFICATE_INVALID, message)

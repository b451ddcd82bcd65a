"""Private keys: EC P-256, kept as unencrypted PKCS #8 in PEM. Knows no folders but the path it is given."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from jobpki.errors import PkiError

_KEY = re.compile(rb"-----BEGIN (?:EC )?PRIVATE KEY-----.+?-----END (?:EC )?PRIVATE KEY-----\s*", re.DOTALL)


def generate() -> ec.EllipticCurvePrivateKey:
    """A new key on P-256 (FIPS 186-5): what every TLS stack and ES256 take."""
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 (RFC 5958) in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def from_pem(pem: bytes, path: Path) -> PrivateKeyTypes:
    """A private key of any kind.

    Raises:
        PkiError: it is not an unencrypted private key in PEM; names `path`.
    """
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise PkiError("is not an unencrypted private key in PEM", path=path) from error
    except Exception as error:  # UnsupportedAlgorithm has no narrower public base
        raise PkiError("is a private key of an unknown kind", path=path) from error


def p256_from_pem(pem: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key on P-256.

    Raises:
        PkiError: it is not one; names `path`.
    """
    key = from_pem(pem, path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError("is not an EC key on P-256", path=path)
    return key


def p256s_from_pem(pem: bytes, path: Path) -> list[ec.EllipticCurvePrivateKey]:
    """The private keys of a file, each on P-256; at least one.

    Raises:
        PkiError: one is not; names `path`.
    """
    blocks = _KEY.findall(pem)
    if _KEY.sub(b"", pem).strip():
        blocks = [pem]  # something else is in it: let that be told
    return [p256_from_pem(block, path) for block in blocks or [pem]]


def same_public_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Whether two public keys are the same, of whatever kind."""
    return _spki(one) == _spki(other)


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

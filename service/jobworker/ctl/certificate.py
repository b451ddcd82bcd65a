"""Whose certificate a bundle holds, and with which key."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from jobworker.ctl.exits import CtlError, Exit

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_KEY_ID_DIGITS = 16


@dataclass(frozen=True)
class Certificate:
    """`user` is the common name, the user that the service knows; `key_id` some digits of the SHA-256 of the public key
    (RFC 5280's SubjectPublicKeyInfo), which a renewed certificate has as well."""

    user: str
    key_id: str
    not_after: datetime


def certificate_of(bundle: Path) -> Certificate:
    """What the bundle's certificate says.

    Raises:
        CtlError: it cannot be read, or names nobody.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import NameOID

    path = bundle / "tls.crt"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except OSError as error:
        hint = "" if bundle.is_dir() else " - give your certificate bundle's folder by --bundle or JOBCTL_BUNDLE"
        raise CtlError(f"{path}: {error.strerror}{hint}", Exit.NOT_LOGGED_IN) from error
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CtlError(f"{path}: is not a certificate in PEM form", Exit.NOT_LOGGED_IN) from error
    if not names:
        raise CtlError(f"{path}: names no user", Exit.NOT_LOGGED_IN)
    return Certificate(
        user=str(names[0].value),
        key_id=sha256(key).hexdigest()[:_KEY_ID_DIGITS],
        not_after=certificate.not_valid_after_utc,
    )

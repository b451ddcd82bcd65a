"""What the authority has signed and is not yet expired: whose it is, its serial and its times.

It is what `revoke NAME` goes by: a bundle that was renewed, moved or lost is in no folder here. A PKI of before this
file has the certificates of its bundles alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from jobpki.access import read_secret
from jobpki.bundle import spiffe_id
from jobpki.errors import PkiError
from jobpki.layout import SECRET_MODE
from jobpki.publish import publish_file

_VERSION = 1
_HEX = 16


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate. `identity` is the path of its SPIFFE ID: `user/alice`, `server`, `health`; `issuer` the key
    identifier of the authority, in hex."""

    serial: int
    identity: str
    issuer: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Issued:
        """That of a certificate."""
        return cls(
            serial=certificate.serial_number,
            identity=(spiffe_id(certificate) or "").removeprefix("spiffe://").partition("/")[2],
            issuer=issuer_id(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )


def issuer_id(certificate: x509.Certificate) -> str:
    """The key identifier of the authority that signed a certificate, in hex; empty when it names none."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return (value.key_identifier or b"").hex()


def read_issued(path: Path) -> list[Issued]:
    """Each certificate, in the order of their issue; none where there is no file.

    Raises:
        PkiError: it cannot be read, is for others to read or change, or is no such file.
    """
    return parse_issued(read_secret(path), path) if path.exists() else []


def parse_issued(content: bytes, path: Path) -> list[Issued]:
    """As read_issued, of bytes that were read from `path`."""
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise PkiError(f"is not a list of certificates of version {_VERSION}", path=path)
        return [
            Issued(
                serial=int(entry["serial"], _HEX),
                identity=str(entry["identity"]),
                issuer=str(entry["issuer"]),
                not_before=_time(entry["not_before"]),
                not_after=_time(entry["not_after"]),
            )
            for entry in document["certificates"]
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise PkiError("is not a list of certificates", path=path) from error


def add_issued(path: Path, certificates: Iterable[x509.Certificate], *, now: datetime) -> None:
    """Notes certificates, those that are noted already once, and forgets what has expired."""
    known = {entry.serial: entry for entry in read_issued(path)}
    added = {entry.serial: entry for entry in map(Issued.of, certificates)}
    kept = [entry for entry in (known | added).values() if entry.not_after >= now]
    document = {
        "version": _VERSION,
        "certificates": [
            {
                "serial": f"{entry.serial:x}",
                "identity": entry.identity,
                "issuer": entry.issuer,
                "not_before": entry.not_before.isoformat(),
                "not_after": entry.not_after.isoformat(),
            }
            for entry in kept
        ],
    }
    publish_file(path, (json.dumps(document, indent=1) + "\n").encode(), mode=SECRET_MODE)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)

"""The revoked certificates: a CRL (RFC 5280 section 5) of each authority, one after the other in one PEM file.

A certificate is known by its issuer's name and its serial. There is no date at which a list becomes worthless: it lies
beside the server, which reads each new one at once, and so holds until its authority ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from jobpki.access import read_public
from jobpki.authority import Authority
from jobpki.bundle import BROKEN
from jobpki.errors import PkiError

_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\s*", re.DOTALL)

# (name of the issuer in DER, serial)
Identifier = tuple[bytes, int]
REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
}


@dataclass(frozen=True, slots=True)
class Revoked:
    """When and why a certificate was revoked."""

    time: datetime
    reason: x509.ReasonFlags = x509.ReasonFlags.unspecified


def identifier(certificate: x509.Certificate) -> Identifier:
    """What a certificate is called in a CRL."""
    return certificate.issuer.public_bytes(), certificate.serial_number


def read_revoked(path: Path, authorities: Iterable[x509.Certificate]) -> dict[Identifier, Revoked]:
    """Every revoked certificate; none where there is no file.

    Args:
        path: the CRL's file.
        authorities: a list that has the name of one of them must be signed by it. Those of others, such as one that was
            rotated away, are about certificates that nobody takes any more.

    Raises:
        PkiError: it cannot be read, is for others to change, is not a CRL, or not signed by whom it names.
    """
    if not path.exists():
        return {}
    by_name = {authority.subject.public_bytes(): authority for authority in authorities}
    found: dict[Identifier, Revoked] = {}
    for crl in load_crls(read_public(path), path):
        authority = by_name.get(crl.issuer.public_bytes())
        if authority is not None and not _is_signed(crl, authority):
            raise PkiError(f"is not signed by {crl.issuer.rfc4514_string()}, whose list it says to be", path=path)
        found |= {(crl.issuer.public_bytes(), entry.serial_number): _revoked(entry) for entry in crl}
    return found


def load_crls(pem: bytes, path: Path) -> list[x509.CertificateRevocationList]:
    """Each CRL of a file.

    Raises:
        PkiError: there is none, or one is broken.
    """
    try:
        found = [_whole(x509.load_pem_x509_crl(block)) for block in _BLOCK.findall(pem)]
    except BROKEN as error:
        raise PkiError("is not a CRL in PEM", path=path) from error
    if not found or _BLOCK.sub(b"", pem).strip():
        raise PkiError("is not a CRL in PEM", path=path)
    return found


def _whole(crl: x509.CertificateRevocationList) -> x509.CertificateRevocationList:
    """A list whose parts can be read: each is parsed when it is asked for."""
    _ = crl.issuer.public_bytes(), crl.next_update_utc, crl.extensions
    for entry in crl:
        _ = entry.serial_number, _revoked(entry)
    return crl


def make_crls(
    signers: Sequence[Authority],
    revoked: Mapping[Identifier, Revoked],
    *,
    before: Iterable[x509.CertificateRevocationList],
    now: datetime,
) -> bytes:
    """A list of each authority that has revoked something, in PEM. `before`: the lists in whose place they come; those
    of other authorities stay until they end."""
    lists = {crl.issuer.public_bytes(): crl for crl in before}
    parts = []
    for signer in signers:
        issuer = signer.certificate.subject.public_bytes()
        entries = {serial: entry for (name, serial), entry in revoked.items() if name == issuer}
        last = lists.pop(issuer, None)
        if entries or last is not None:
            parts.append(_sign(signer, entries, number=_number(last) + 1, now=now))
    parts += [crl for crl in lists.values() if crl.next_update_utc is None or crl.next_update_utc > now]
    return b"".join(crl.public_bytes(serialization.Encoding.PEM) for crl in parts)


def _sign(
    signer: Authority, entries: Mapping[int, Revoked], *, number: int, now: datetime
) -> x509.CertificateRevocationList:
    certificate = signer.certificate
    identifier_ = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now)
        .next_update(max(certificate.not_valid_after_utc, now))
        # Both are demanded of every CRL: RFC 5280 sections 5.2.1 and 5.2.3.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier_), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, entry in sorted(entries.items()):
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(entry.time)
        if entry.reason is not x509.ReasonFlags.unspecified:  # which is to be left out: section 5.3.1
            one = one.add_extension(x509.CRLReason(entry.reason), critical=False)
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(signer.key, hashes.SHA256())


def _is_signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # others raise TypeError
    except TypeError:
        return False


def _revoked(entry: x509.RevokedCertificate) -> Revoked:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        reason = x509.ReasonFlags.unspecified
    return Revoked(time=entry.revocation_date_utc, reason=reason)


def _number(crl: x509.CertificateRevocationList | None) -> int:
    if crl is None:
        return 0
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0

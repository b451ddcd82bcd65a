"""Revokes certificates, those of a user or one by its serial, and tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cryptography import x509

from jobpki.audit import record
from jobpki.errors import PkiError
from jobpki.issued import read_issued
from jobpki.issuing import Issuing, authorities, subject_of
from jobpki.opened import opened
from jobpki.profiles import is_user_name
from jobpki.revocation import Revoked
from jobpki.revokedtokens import add_revoked_tokens

# As `openssl x509 -serial`, `-text` and `jobpki list` have it; RFC 5280 section 4.1.2.2: at most 20 bytes.
_SERIAL = re.compile(r"(?:0x)?([0-9a-f]{1,40})", re.IGNORECASE)


def revoke(root: Path, what: str, *, reason: x509.ReasonFlags, now: datetime) -> list[int]:
    """Revokes all certificates of a user, those that were renewed before too, or one.

    Args:
        root: the PKI folder.
        what: a user's name, or a serial in hex, with colons or without.
        reason: for the CRL.
        now: an aware time.

    Returns:
        The serials; none: they were revoked before.

    Raises:
        PkiError: there is neither, or the authority's key is not here.
    """
    with opened(root, made=False) as layout:
        issuing = Issuing(layout, now=now)
        known = issuing.known(subject_of(layout, f"user/{what}")) if is_user_name(what) else []
        if known:
            serials = [entry.serial for entry in known]
        elif found := _SERIAL.fullmatch(what.replace(":", "")):
            serials = [int(found[1], 16)]
        else:
            raise PkiError(
                f"no certificate of {what} is known here: give its serial (openssl x509 -noout -serial -in tls.crt)"
            )
        return revoke_certificates(issuing, serials, reason, now=now)


def revoke_certificates(
    issuing: Issuing, serials: Iterable[int], reason: x509.ReasonFlags, *, now: datetime
) -> list[int]:
    """Puts serials on the list of the authority that has signed them, and where that is not known, on each's. Returns
    those that were not on it."""
    revoked = issuing.revoked()
    signed = {entry.serial: entry.issuer for entry in read_issued(issuing.layout.issued)}
    added = {}
    for serial in serials:
        for authority in authorities(issuing.layout, that_signed=True):
            own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
            name = (authority.subject.public_bytes(), serial)
            if name not in revoked and signed.get(serial, own) == own:
                added[name] = Revoked(time=now, reason=reason)
    revoked_now = sorted({serial for _, serial in added})
    if added:
        issuing.write_crl(revoked | added)
        record(
            issuing.layout,
            "certificate.revoke",
            serials=[f"{serial:x}" for serial in revoked_now],
            cause=reason.value,
        )
    return revoked_now


def revoke_tokens(root: Path, token_ids: Iterable[str], *, now: datetime) -> list[str]:
    """Revokes tokens by their `jti`. Returns those that were not revoked.

    Raises:
        PkiError: one is not a token's id.
    """
    with opened(root, made=False) as layout:
        added = add_revoked_tokens(layout.revoked_tokens, token_ids, now=now)
        if added:
            record(layout, "token.revoke", tokens=added)
        return added

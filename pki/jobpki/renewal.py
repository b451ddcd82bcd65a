"""New certificates for bundles whose old ones are about to end: with the same key, names and lifetime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from jobpki import keys
from jobpki.bundle import load_certificate
from jobpki.errors import PkiError
from jobpki.issuing import (
    SERVER,
    USER,
    Issuing,
    Subject,
    authorities,
    key_of,
    not_ours,
    server_names,
    subject_named,
    subjects,
)
from jobpki.layout import CERTIFICATE_FILE
from jobpki.opened import opened
from jobpki.profiles import BACKDATE, IpAddress, Lifetimes, subject_name
from jobpki.revocation import identifier


@dataclass(slots=True)
class Renewal:
    """What was issued anew: each bundle, and when it ends now; those that only trust other authorities; and remarks."""

    done: list[tuple[Subject, datetime]] = field(default_factory=list)
    trusted: list[Subject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def renew_due(root: Path, *, now: datetime) -> Renewal:
    """Renews each bundle that is past two thirds of its life, or expired; revoked ones never.

    Raises:
        PkiError: no PKI, a file in it is damaged or open to others, or the authority cannot sign.
    """
    with opened(root, made=False) as layout:
        issuing, renewal = Issuing(layout, now=now), Renewal()
        revoked = issuing.revoked()
        for subject in subjects(layout):
            if not subject.is_ours:
                renewal.notes.append(not_ours(subject))
                continue
            certificate = _certificate(subject)
            if certificate is None or not is_due(certificate, now) or identifier(certificate) in revoked:
                continue
            if certificate.not_valid_after_utc >= issuing.signer(subject.folder).certificate.not_valid_after_utc:
                renewal.notes.append(
                    f"{subject.folder} ends with its authority, on {certificate.not_valid_after_utc:%Y-%m-%d}: "
                    "`jobpki rotate-ca` makes another one"
                )
                continue
            renewal.done.append((subject, reissue(issuing, subject, certificate)))
        return renewal


def renew_one(
    root: Path,
    name: str,
    *,
    now: datetime,
    lifetime: timedelta | None = None,
    names: Iterable[str] = (),
    new_key: bool = False,
) -> Renewal:
    """Renews one bundle, whatever its age.

    Args:
        root: the PKI folder.
        name: `server`, `health`, or a user's; one who is called so: `user/server`.
        now: an aware time.
        lifetime: None: that of the certificate before.
        names: of the server; none: those it has.
        new_key: tokens that were given out over the old one end with it.

    Raises:
        PkiError: there is no such bundle, or it is revoked; and as `renew_due`.
    """
    wanted = [subject_name(text) for text in names]
    with opened(root, made=False) as layout:
        issuing = Issuing(layout, now=now)
        subject = subject_named(layout, name)
        if wanted and subject.kind != SERVER:
            raise PkiError("only the server's certificate has names to be called by")
        if not subject.is_ours:
            return Renewal(notes=[not_ours(subject)])
        path = subject.folder / CERTIFICATE_FILE
        certificate = _certificate(subject)
        if certificate is None:
            raise PkiError("is missing", path=path, mend="`jobpki init` and `jobpki issue` make bundles")
        if identifier(certificate) in issuing.revoked():
            again = f"jobpki issue {subject.name}" if subject.kind == USER else f"rm -r {subject.folder} && jobpki init"
            raise PkiError("is revoked, and not to be renewed", path=path, mend=f"run: {again} --dir {root}")
        end = reissue(issuing, subject, certificate, lifetime=lifetime, names=wanted, new_key=new_key)
        return Renewal(done=[(subject, end)])


def reissue(
    issuing: Issuing,
    subject: Subject,
    before: x509.Certificate,
    *,
    lifetime: timedelta | None = None,
    names: Sequence[str | IpAddress] = (),
    new_key: bool = False,
) -> datetime:
    """A certificate for a bundle in the place of `before`; see `renew_one`. Returns when it ends."""
    key = None if new_key else key_of(subject.folder)
    made = issuing.bundle(
        subject,
        lifetime=lifetime or _lifetime(issuing, subject, before),
        key=key or keys.generate(),
        names=names or server_names(before),
    )
    return made.not_valid_after_utc


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a certificate is past two thirds of its life."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * 2 / 3


def _lifetime(issuing: Issuing, subject: Subject, before: x509.Certificate) -> timedelta:
    """What it was; the usual one where it was cut short by the end of its authority."""
    usual = Lifetimes().client if subject.kind == USER else Lifetimes().server
    if before.not_valid_after_utc in {ca.not_valid_after_utc for ca in authorities(issuing.layout)}:
        return usual
    return before.not_valid_after_utc - before.not_valid_before_utc - BACKDATE


def _certificate(subject: Subject) -> x509.Certificate | None:
    path = subject.folder / CERTIFICATE_FILE
    return load_certificate(path) if path.exists() else None

"""What a PKI folder holds: certificates with their expiry, users, and what is wrong with it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from jobpki.bundle import load_certificate
from jobpki.errors import PkiError
from jobpki.examine import examine
from jobpki.issued import read_issued
from jobpki.issuing import HEALTH, SERVER, USER, Issuing, subject_of, subjects
from jobpki.layout import CERTIFICATE_FILE, Layout
from jobpki.publish import reading
from jobpki.users import Role, User, read_users


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the overview. Users without a bundle here have no path; bundles without a user have no role. `earlier`
    is a certificate that is still valid and in no bundle here, a `file` one that has a problem."""

    kind: str  # authority, server, health, user, earlier or file
    name: str
    role: Role | None = None
    path: Path | None = None
    serial: int | None = None
    not_after: datetime | None = None
    is_disabled: bool = False
    is_revoked: bool = False
    problem: str = ""  # why the certificate could not be read; what is wrong with a file, and what to do


def overview(root: Path, *, now: datetime) -> list[Entry]:
    """The authorities, the server, the health check, every user by name, certificates of before, then each file or
    folder that has a problem.

    Raises:
        PkiError: there is no PKI.
    """
    layout = Layout(root)
    with reading(layout.lock):
        users, bundles = _users(layout), {subject.identity: subject for subject in subjects(layout)}
        revoked = _revoked(layout, now)
        entries = []
        for name, path in (("ca", layout.ca_certificate), ("next", layout.ca_next), ("previous", layout.ca_previous)):
            if path.exists() or (name == "ca" and layout.ca.exists()):
                entries.append(_entry("authority", name, path, None, revoked))
        for identity in sorted(
            bundles.keys() | {f"{USER}/{name}" for name in users}, key=lambda i: (i != SERVER, i != HEALTH, i)
        ):
            subject, user = subject_of(layout, identity), users.get(identity.removeprefix(f"{USER}/"))
            if subject.kind != USER:
                user = None
            certificate = subject.folder / CERTIFICATE_FILE if identity in bundles else None
            entries.append(_entry(subject.kind, subject.name, certificate, user, revoked))
        if not entries:
            raise PkiError("holds no PKI", path=root)
        entries += _earlier(layout, {entry.serial for entry in entries}, revoked, now)
        return entries + [_problem(layout, fault) for fault in examine(layout)]


def _earlier(layout: Layout, shown: set[int | None], revoked: set[int], now: datetime) -> list[Entry]:
    try:
        issued = read_issued(layout.issued)
    except PkiError:
        return []
    return [
        Entry(
            kind="earlier",
            name=entry.identity,
            serial=entry.serial,
            not_after=entry.not_after,
            is_revoked=entry.serial in revoked,
        )
        for entry in issued
        if entry.serial not in shown and entry.not_after >= now
    ]


def _revoked(layout: Layout, now: datetime) -> set[int]:
    try:
        return {serial for _, serial in Issuing(layout, now=now).revoked()}
    except PkiError:
        return set()


def _users(layout: Layout) -> Mapping[str, User]:
    """None where the file cannot be believed, which is told by the line about that file."""
    try:
        return read_users(layout.users)
    except PkiError:
        return {}


def _problem(layout: Layout, fault: PkiError) -> Entry:
    path = fault.path or layout.root
    name = str(path.relative_to(layout.root)) if path.is_relative_to(layout.root) else str(path)
    return Entry(kind="file", name=name, path=path, problem=str(fault))


def _entry(kind: str, name: str, path: Path | None, user: User | None, revoked: set[int]) -> Entry:
    role, is_disabled = (None, False) if user is None else (user.role, user.disabled)
    entry = Entry(kind=kind, name=name, role=role, path=path, is_disabled=is_disabled)
    if path is None:
        return entry
    try:
        certificate = load_certificate(path)
    except PkiError as error:
        return replace(entry, problem=f"{path}: {error.problem}")
    serial = certificate.serial_number
    return replace(entry, serial=serial, not_after=certificate.not_valid_after_utc, is_revoked=serial in revoked)

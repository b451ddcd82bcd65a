"""What a PKI folder holds: certificates with their expiry, users, and what is wrong with it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobpki.bundle import load_certificate
from jobpki.errors import PkiError
from jobpki.examine import examine
from jobpki.layout import CERTIFICATE_FILE, Layout
from jobpki.users import Role, User, read_users


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the overview. Users without a bundle here have no path; bundles without a user have no role. A `file`
    is one that has a problem."""

    kind: str  # authority, server, health, user or file
    name: str
    role: Role | None = None
    path: Path | None = None
    serial: int | None = None
    not_after: datetime | None = None
    problem: str = ""  # why the certificate could not be read; what is wrong with a file, and what to do


def overview(root: Path) -> list[Entry]:
    """The authority, the server, then every user by name, then each file or folder that has a problem.

    Raises:
        PkiError: there is no PKI.
    """
    layout = Layout(root)
    entries = []
    if layout.ca.exists():
        entries.append(_entry("authority", "ca", layout.ca_certificate, None))
    if layout.server.exists():
        entries.append(_entry("server", "server", layout.server / CERTIFICATE_FILE, None))
    if layout.health.exists():
        entries.append(_entry("health", "health", layout.health / CERTIFICATE_FILE, None))
    users = _users(layout)
    bundles = set()
    if layout.clients.is_dir():
        bundles = {folder.name for folder in layout.clients.iterdir() if not folder.name.startswith(".")}
    for name in sorted(users.keys() | bundles):
        role = users[name].role if name in users else None
        if name in bundles:
            entries.append(_entry("user", name, layout.client(name) / CERTIFICATE_FILE, role))
        else:
            entries.append(Entry(kind="user", name=name, role=role))
    if not entries:
        raise PkiError("holds no PKI", path=root)
    return entries + [_problem(layout, fault) for fault in examine(layout)]


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


def _entry(kind: str, name: str, path: Path, role: Role | None) -> Entry:
    try:
        certificate = load_certificate(path)
    except PkiError as error:
        return Entry(kind=kind, name=name, role=role, path=path, problem=f"{path}: {error.problem}")
    return Entry(
        kind=kind,
        name=name,
        role=role,
        path=path,
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc,
    )

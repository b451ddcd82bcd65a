"""What a PKI folder holds: certificates with their expiry, and users. Reads only, and needs no key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobpki.bundle import load_certificate
from jobpki.errors import PkiError
from jobpki.layout import CERTIFICATE_FILE, Layout
from jobpki.users import Role, read_users


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the overview. Users without a bundle here have no path; bundles without a user have no role."""

    kind: str  # authority, server, health or user
    name: str
    role: Role | None = None
    path: Path | None = None
    serial: int | None = None
    not_after: datetime | None = None
    problem: str = ""  # why the certificate could not be read


def overview(root: Path) -> list[Entry]:
    """The authority, the server, then every user by name.

    Raises:
        PkiError: there is no PKI, or its users file is damaged.
    """
    layout = Layout(root)
    entries = []
    if layout.ca.exists():
        entries.append(_entry("authority", "ca", layout.ca_certificate, None))
    if layout.server.exists():
        entries.append(_entry("server", "server", layout.server / CERTIFICATE_FILE, None))
    if layout.health.exists():
        entries.append(_entry("health", "health", layout.health / CERTIFICATE_FILE, None))
    users = read_users(layout.users) if layout.users.exists() else {}
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
    return entries


def _entry(kind: str, name: str, path: Path, role: Role | None) -> Entry:
    try:
        certificate = load_certificate(path)
    except PkiError as error:
        return Entry(kind=kind, name=name, role=role, path=path, problem=str(error))
    return Entry(
        kind=kind,
        name=name,
        role=role,
        path=path,
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc,
    )

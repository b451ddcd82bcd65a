"""Signs bundles with the authority of a PKI folder, and puts them in their place. Under the folder's lock alone."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobpki import authority as certificates
from jobpki import keys
from jobpki.access import owner_name, read_secret
from jobpki.audit import record
from jobpki.authority import Authority
from jobpki.bundle import check_key_of, check_period, load_certificate, spiffe_trust_domain
from jobpki.errors import PkiError
from jobpki.issued import Issued, add_issued, read_issued
from jobpki.layout import (
    CA_FILE,
    CERTIFICATE_FILE,
    CLIENTS_MODE,
    CLOSED_MODE,
    KEY_FILE,
    PUBLIC_MODE,
    SECRET_MODE,
    Layout,
)
from jobpki.profiles import IpAddress, check_user_name
from jobpki.publish import make_folder, publish_file, publish_folder
from jobpki.revocation import Identifier, Revoked, load_crls, make_crls, read_revoked

SERVER, HEALTH, USER = "server", "health", "user"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a bundle is for: the server, the health check, or a user of this name."""

    kind: str
    name: str
    folder: Path

    @property
    def identity(self) -> str:
        """The path of its SPIFFE ID."""
        return f"{USER}/{self.name}" if self.kind == USER else self.kind

    @property
    def is_ours(self) -> bool:
        """Whether the bundle is for us to look after: one that was given to its user (chown) is that user's."""
        return os.geteuid() in (0, self.folder.stat().st_uid)


def subject_of(layout: Layout, identity: str) -> Subject:
    """That of `server`, `health` or `user/NAME`."""
    kind, _, name = identity.partition("/")
    folder = {SERVER: layout.server, HEALTH: layout.health}.get(identity)
    return Subject(kind=kind, name=name or kind, folder=folder or layout.client(name))


def subject_named(layout: Layout, name: str) -> Subject:
    """That of `server`, `health` or a user's name; a user who is called so is `user/server`.

    Raises:
        PkiError: nobody can be called so.
    """
    identity = name if name in (SERVER, HEALTH) or name.startswith(f"{USER}/") else f"{USER}/{name}"
    check_user_name(identity.rpartition("/")[2])
    return subject_of(layout, identity)


def subjects(layout: Layout) -> Iterator[Subject]:
    """Whoever has a bundle here, complete or not: the server, the health check, then users by name."""
    for identity in (SERVER, HEALTH):
        if (found := subject_of(layout, identity)).folder.is_dir():
            yield found
    try:
        folders = sorted(layout.clients.iterdir())
    except OSError:
        return
    for folder in folders:
        if not folder.name.startswith(".") and folder.is_dir():
            yield Subject(kind=USER, name=folder.name, folder=folder)


class Issuing:
    """Signs with what lies in `ca/`."""

    def __init__(self, layout: Layout, *, now: datetime) -> None:
        self.layout = layout
        self._now = now

    def signer(self, purpose: Path) -> Authority:
        """The authority, to issue what goes to `purpose`.

        Raises:
            PkiError: its key is not here, is another's, or it has expired.
        """
        layout = self.layout
        if not layout.ca_key.exists():
            raise PkiError(f"is missing, and {purpose} is to be issued with it", path=layout.ca_key)
        found = _pair(layout.ca_key, layout.ca_certificate)
        check_period(found.certificate, layout.ca_certificate, self._now)
        return found

    def bundle(
        self,
        subject: Subject,
        *,
        lifetime: timedelta,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[str | IpAddress] = (),
        files: Mapping[str, tuple[bytes, int]] | None = None,
    ) -> x509.Certificate:
        """Issues a certificate and writes the bundle, with what else lies in its folder, and `files`.

        Raises:
            PkiError: it cannot be signed, or the folder holds what cannot be replaced with it.
        """
        folder = subject.folder
        signer = self.signer(folder)
        trust_domain = spiffe_trust_domain(signer.certificate)
        if trust_domain is None:
            raise PkiError("has no URI SAN spiffe://<trust domain>", path=self.layout.ca_certificate)
        common = {
            "key": key.public_key(),
            "trust_domain": trust_domain,
            "now": self._now,
            "lifetime": lifetime,
            "serial": x509.random_serial_number(),  # 159 random bits
        }
        match subject.kind:
            case "server":
                certificate = certificates.issue_server(signer, names=names, **common)  # type: ignore[arg-type]
            case "health":
                certificate = certificates.issue_health(signer, **common)  # type: ignore[arg-type]
            case _:
                certificate = certificates.issue_client(signer, user=subject.name, **common)  # type: ignore[arg-type]
        replaced = folder / CERTIFICATE_FILE
        before = [load_certificate(replaced)] if replaced.exists() else []
        # First it is noted: one that nobody knows of could not be revoked.
        add_issued(self.layout.issued, [*before, certificate], now=self._now)
        written = {
            CA_FILE: (self.trust_pem(), PUBLIC_MODE),
            CERTIFICATE_FILE: (pem(certificate), PUBLIC_MODE),
            KEY_FILE: (keys.to_pem(key), SECRET_MODE),
        }
        if subject.kind == USER:
            make_folder(self.layout.clients, mode=CLIENTS_MODE)
        publish_folder(folder, {**contents(folder), **written, **(files or {})}, mode=CLOSED_MODE)
        record(
            self.layout,
            "certificate.issue",
            subject=subject.identity,
            serial=f"{certificate.serial_number:x}",
            not_after=f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        )
        return certificate

    def known(self, subject: Subject) -> list[Issued]:
        """The certificates that a subject has had, those that expired left out; the last one is that of its bundle."""
        found = {entry.serial: entry for entry in read_issued(self.layout.issued) if entry.identity == subject.identity}
        path = subject.folder / CERTIFICATE_FILE
        if path.exists():
            own = Issued.of(load_certificate(path))
            found.pop(own.serial, None)
            found[own.serial] = own
        return [entry for entry in found.values() if entry.not_after >= self._now]

    def known_end(self, subject: Subject) -> datetime:
        """When the last of them that is not revoked ends; now, where there is none."""
        serials = {serial for _, serial in self.revoked()}
        return max((e.not_after for e in self.known(subject) if e.serial not in serials), default=self._now)

    def trust_pem(self) -> bytes:
        """What the `ca.crt` of every bundle is to be."""
        return b"".join(map(pem, authorities(self.layout)))

    def revoked(self) -> dict[Identifier, Revoked]:
        """What is revoked already."""
        return read_revoked(self.layout.crl, authorities(self.layout))

    def write_crl(self, revoked: Mapping[Identifier, Revoked]) -> None:
        """Signs the lists anew, of the authorities whose keys are here.

        Raises:
            PkiError: the key of the authority is not here.
        """
        layout = self.layout
        signers = [self.signer(layout.crl)]
        if layout.ca_previous.exists():
            signers.append(_pair(layout.ca_previous.with_suffix(".key"), layout.ca_previous))
        before = load_crls(layout.crl.read_bytes(), layout.crl) if layout.crl.exists() else []
        lists = make_crls(signers, revoked, before=before, now=self._now)
        make_folder(layout.auth, mode=CLOSED_MODE)
        publish_file(layout.crl, lists, mode=PUBLIC_MODE)


def authorities(layout: Layout, *, that_signed: bool = False) -> list[x509.Certificate]:
    """Those that bundles are to trust, the one that signs first; `that_signed`: without one that is yet to sign."""
    paths = (layout.ca_certificate, *(() if that_signed else (layout.ca_next,)), layout.ca_previous)
    return [load_certificate(path) for path in paths if path.exists()]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The files of a bundle's folder (name -> content, mode); none where there is no folder.

    Raises:
        PkiError: there is something else in it.
    """
    if not folder.is_dir():
        return {}
    found = {}
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            raise PkiError(f"is not a regular file, and so {folder} cannot be written anew", path=path)
        found[path.name] = (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    return found


def server_names(certificate: x509.Certificate) -> list[str | IpAddress]:
    """What clients call a server by, as its certificate has it."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    return [
        *names.get_values_for_type(x509.DNSName),
        *(a for a in addresses if isinstance(a, ipaddress.IPv4Address | ipaddress.IPv6Address)),
    ]


def not_ours(subject: Subject) -> str:
    """A note about a bundle that was left alone."""
    owner = owner_name(subject.folder.stat().st_uid)
    return f"{subject.folder} belongs to {owner} and stays as it is: run it as root"


def key_of(folder: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key that lies in a bundle; None: none does."""
    path = folder / KEY_FILE
    return keys.p256_from_pem(read_secret(path), path) if path.exists() else None


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pair(key_path: Path, certificate_path: Path) -> Authority:
    key = keys.p256_from_pem(read_secret(key_path), key_path)
    certificate = load_certificate(certificate_path)
    check_key_of(certificate, key, key_path=key_path, certificate_path=certificate_path)
    return Authority(certificate=certificate, key=key)

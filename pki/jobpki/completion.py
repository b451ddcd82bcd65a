"""One run over a PKI folder, under its lock: each step looks at what is there and makes only what is missing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobpki import authority as certificates
from jobpki import keys
from jobpki.access import read_secret
from jobpki.authority import Authority
from jobpki.bundle import check_key_of, load_certificate, spiffe_trust_domain
from jobpki.errors import PkiError
from jobpki.layout import (
    CA_FILE,
    CERTIFICATE_FILE,
    CLIENTS_MODE,
    CLOSED_MODE,
    KEY_FILE,
    PASSWORD_FILE,
    PUBLIC_MODE,
    SECRET_MODE,
    Layout,
)
from jobpki.passwords import hash_password, password_matches
from jobpki.profiles import DEFAULT_TRUST_DOMAIN, IpAddress, Lifetimes, PasswordCost
from jobpki.publish import make_folder, publish_file, publish_folder, remove_file
from jobpki.users import Role, User, read_users, write_users

_PASSWORD_BYTES = 18  # 144 random bits, 24 characters


@dataclass(slots=True)
class InitResult:
    """What a run did: the paths it made, remarks, and the passwords of users that it added, by name."""

    trust_domain: str = ""
    made: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)


class Completion:
    """Makes the parts of one folder; `authority` comes first."""

    def __init__(
        self, layout: Layout, *, now: datetime, lifetimes: Lifetimes, cost: PasswordCost, certificates: bool = True
    ) -> None:
        """`certificates`: whether users get a bundle; without, another authority gives them their certificates."""
        self._certificates = certificates
        self._layout = layout
        self._now = now
        self._lifetimes = lifetimes
        self._cost = cost
        self.result = InitResult()

    def authority(self, trust_domain: str | None) -> None:
        """The authority's key and certificate, or the trust domain of the one that is there.

        Raises:
            PkiError: it has another trust domain, is damaged, or is gone while what it issued is there.
        """
        path = self._authority_path()
        if path is None:
            self._make_authority(trust_domain or DEFAULT_TRUST_DOMAIN)
            return
        found = spiffe_trust_domain(load_certificate(path))
        if found is None:
            raise PkiError("has no URI SAN spiffe://<trust domain>", path=path)
        if trust_domain not in {None, found}:
            raise PkiError(f"is the authority of trust domain {found}, not {trust_domain}", path=path)
        self.result.trust_domain = found

    def server(self, names: Sequence[str | IpAddress]) -> None:
        """The server's bundle; one that is there keeps the names it has."""
        folder = self._layout.server
        if _whole(folder):
            self._note_other_names(names)
            return
        self._make_bundle(folder, partial(certificates.issue_server, names=names), self._lifetimes.server)

    def health(self) -> None:
        """The bundle of the health check. A PKI of before it had one may have its authority's key elsewhere: it can do
        without."""
        folder = self._layout.health
        if _whole(folder):
            return
        if not self._layout.ca_key.exists():
            self.result.notes.append(f"{folder} is not made: {self._layout.ca_key} is away")
            return
        self._make_bundle(folder, certificates.issue_health, self._lifetimes.server)

    def token_key(self) -> None:
        """The key that signs tokens."""
        make_folder(self._layout.auth, mode=CLOSED_MODE)
        if not self._layout.token_key.exists():
            publish_file(self._layout.token_key, keys.to_pem(keys.generate()), mode=SECRET_MODE)
            self.result.made.append(self._layout.token_key)

    def users(self, wanted: Mapping[str, Role]) -> None:
        """Entries and bundles of users; those that are there keep their role and password."""
        users = self._read_users()
        added: dict[str, User] = {}
        for name, role in wanted.items():
            if name not in users:
                added[name] = self._new_user(name, role)
            else:
                self._client_bundle(name, password=None)
                if users[name].role is not role:
                    self.result.notes.append(f"{name} stays {users[name].role}: `jobpki issue` changes roles")
        if added:
            self._write_users(users | added)

    def user(self, name: str, role: Role, password: str | None) -> None:
        """One user's entry and bundle as asked for.

        Raises:
            PkiError: no administrator would be left.
        """
        users = self._read_users()
        old = users.get(name)
        others = (user.role for other, user in users.items() if other != name)
        if role is not Role.ADMIN and Role.ADMIN not in others and old is not None and old.role is Role.ADMIN:
            raise PkiError(f"{name} is the only administrator and cannot become {role}")
        if password is not None:
            self._client_bundle(name, password=None)
            keep = old is not None and password_matches(password, old.password_hash)
            new = User(
                role=role,
                password_hash=old.password_hash if old is not None and keep else hash_password(password, self._cost),
                created_at=self._now if old is None else old.created_at,
            )
        elif old is None:
            new = self._new_user(name, role)
        else:
            self._client_bundle(name, password=None)
            new = User(role=role, password_hash=old.password_hash, created_at=old.created_at)
        if new != old:
            make_folder(self._layout.auth, mode=CLOSED_MODE)
            self._write_users(users | {name: new})
        if password is not None:
            # What was generated no longer opens anything, and would mislead.
            remove_file(self._layout.password(name))

    def _authority_path(self) -> Path | None:
        """A file with the authority's certificate; None where there is no PKI yet.

        The server's copy will do: an authority may be kept elsewhere while nothing is to be issued.
        """
        layout = self._layout
        if layout.ca.exists():
            return layout.ca_certificate
        if layout.server.exists():
            return layout.server / CA_FILE
        if layout.clients.is_dir() and any(layout.clients.iterdir()):
            raise PkiError(
                "is missing, and client bundles of it are there: bring it back, or remove them", path=layout.ca
            )
        return None

    def _make_authority(self, trust_domain: str) -> None:
        authority = certificates.make_authority(
            key=keys.generate(),
            trust_domain=trust_domain,
            now=self._now,
            lifetime=self._lifetimes.authority,
            serial=x509.random_serial_number(),
        )
        files = {
            self._layout.ca_key.name: (keys.to_pem(authority.key), SECRET_MODE),
            self._layout.ca_certificate.name: (_pem(authority.certificate), PUBLIC_MODE),
        }
        publish_folder(self._layout.ca, files, mode=CLOSED_MODE)
        self.result.trust_domain = trust_domain
        self.result.made.append(self._layout.ca)

    def _signer(self, purpose: Path) -> Authority:
        """The authority, to issue what goes to `purpose`."""
        layout = self._layout
        if not layout.ca_key.exists():
            raise PkiError(f"is missing, and {purpose} is to be issued with it", path=layout.ca_key)
        key = keys.p256_from_pem(read_secret(layout.ca_key), layout.ca_key)
        certificate = load_certificate(layout.ca_certificate)
        check_key_of(certificate, key, key_path=layout.ca_key, certificate_path=layout.ca_certificate)
        if self._now > certificate.not_valid_after_utc:
            raise PkiError(
                f"has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC", path=layout.ca_certificate
            )
        return Authority(certificate=certificate, key=key)

    def _new_user(self, name: str, role: Role) -> User:
        """A user's bundle and the entry to be written, which comes last: a run cut off between finds the password."""
        path = self._layout.password(name)
        found = path.exists()
        password = _text(path) if found else secrets.token_urlsafe(_PASSWORD_BYTES)
        self._client_bundle(name, password=password)
        if not path.exists():
            make_folder(self._layout.clients, mode=CLIENTS_MODE)
            make_folder(self._layout.client(name), mode=CLOSED_MODE)
            publish_file(path, f"{password}\n".encode(), mode=SECRET_MODE)
        self.result.passwords[name] = password
        return User(role=role, password_hash=hash_password(password, self._cost), created_at=self._now)

    def _client_bundle(self, name: str, *, password: str | None) -> None:
        folder = self._layout.client(name)
        if _whole(folder) or not self._certificates:
            return
        make_folder(self._layout.clients, mode=CLIENTS_MODE)
        if password is None and self._layout.password(name).exists():
            password = _text(self._layout.password(name))
        issue = partial(certificates.issue_client, user=name)
        self._make_bundle(folder, issue, self._lifetimes.client, password=password)

    def _make_bundle(
        self, folder: Path, issue: Callable[..., x509.Certificate], lifetime: timedelta, *, password: str | None = None
    ) -> None:
        authority = self._signer(folder)
        key = _key_to_keep(folder)
        certificate = issue(
            authority,
            key=key.public_key(),
            trust_domain=self.result.trust_domain,
            now=self._now,
            lifetime=lifetime,
            serial=x509.random_serial_number(),
        )
        files = {
            CA_FILE: (_pem(authority.certificate), PUBLIC_MODE),
            CERTIFICATE_FILE: (_pem(certificate), PUBLIC_MODE),
            KEY_FILE: (keys.to_pem(key), SECRET_MODE),
        }
        if password is not None:
            files[PASSWORD_FILE] = (f"{password}\n".encode(), SECRET_MODE)
        publish_folder(folder, files, mode=CLOSED_MODE)
        self.result.made.append(folder)

    def _read_users(self) -> dict[str, User]:
        return read_users(self._layout.users) if self._layout.users.exists() else {}

    def _write_users(self, users: Mapping[str, User]) -> None:
        write_users(self._layout.users, users)
        self.result.made.append(self._layout.users)

    def _note_other_names(self, names: Sequence[str | IpAddress]) -> None:
        path = self._layout.server / CERTIFICATE_FILE
        try:
            alternatives = load_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return
        have = {*alternatives.get_values_for_type(x509.DNSName), *alternatives.get_values_for_type(x509.IPAddress)}
        missing = ", ".join(str(name) for name in names if name not in have)
        if missing:
            self.result.notes.append(
                f"{path} stays without {missing}: remove {self._layout.server} to have it issued anew"
            )


def _whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE))


def _key_to_keep(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The key of a bundle that lost another file, so that tokens bound to it live on; else a new one."""
    path = folder / KEY_FILE
    return keys.p256_from_pem(read_secret(path), path) if path.exists() else keys.generate()


def _text(path: Path) -> str:
    try:
        return read_secret(path).decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise PkiError("is not text", path=path) from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

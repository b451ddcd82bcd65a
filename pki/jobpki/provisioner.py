"""One run over a PKI folder, under its lock: each step looks at what is there and makes only what is missing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from jobpki import authority as certificates
from jobpki import keys
from jobpki.access import read_secret
from jobpki.audit import record
from jobpki.bundle import load_certificate, spiffe_trust_domain
from jobpki.errors import PkiError
from jobpki.issuing import Issuing, Subject, key_of, pem, server_names, subject_of
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
from jobpki.revocation import identifier
from jobpki.users import Role, User, read_users, write_users

PASSWORD_RANDOM_BYTES = 18  # 144 random bits, 24 characters


@dataclass(slots=True)
class InitResult:
    """What a run did: the paths it made, remarks, and the passwords of users that it added, by name."""

    trust_domain: str = ""
    made: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)


class Provisioner:
    """Makes the parts of one folder; `authority` comes first."""

    def __init__(
        self, layout: Layout, *, now: datetime, lifetimes: Lifetimes, cost: PasswordCost, certificates: bool = True
    ) -> None:
        """`certificates`: whether users get a bundle; without, another authority gives them their certificates."""
        self._certificates = certificates
        self._layout = layout
        self._now = now
        self._issuing = Issuing(layout, now=now)
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
        subject = subject_of(self._layout, "server")
        if _whole(subject.folder):
            self._note_other_names(names)
            return
        self._make_bundle(subject, self._lifetimes.server, names=names)

    def health(self) -> None:
        """The bundle of the health check. A PKI of before it had one may have its authority's key elsewhere: it can do
        without."""
        subject = subject_of(self._layout, "health")
        if _whole(subject.folder):
            return
        if not self._layout.ca_key.exists():
            self.result.notes.append(f"{subject.folder} is not made: {self._layout.ca_key} is away")
            return
        self._make_bundle(subject, self._lifetimes.server)

    def token_key(self) -> None:
        """The key that signs tokens."""
        make_folder(self._layout.auth, mode=CLOSED_MODE)
        if not self._layout.token_key.exists():
            publish_file(self._layout.token_key, keys.to_pem(keys.generate()), mode=SECRET_MODE)
            record(self._layout, "token_key.make")
            self.result.made.append(self._layout.token_key)

    def users(self, wanted: Mapping[str, Role]) -> None:
        """Entries and bundles of users; those that are there keep their role and password."""
        users = self._read_users()
        added: dict[str, User] = {}
        for name, role in wanted.items():
            if name not in users:
                added[name] = self._new_user(name, role)
                self._note_role(name, role)
            else:
                self._client_bundle(name, password=None)
                if users[name].role != role:
                    self.result.notes.append(f"{name} stays {users[name].role}: `jobpki issue` changes roles")
        if added:
            self._write_users(users | added)
            for name, user in added.items():
                record(self._layout, "user.add", subject=f"user/{name}", role=str(user.role))

    def _note_role(self, name: str, role: Role) -> None:
        if role.is_configured:
            self.result.notes.append(f"{name} may do what auth.roles of the service gives the role {role}, and no more")

    def user(self, name: str, role: Role | None, password: str | None) -> None:
        """One user's entry and bundle as asked for. `role`: None: that of one who is there, or operator.

        Raises:
            PkiError: no administrator would be left.
        """
        users = self._read_users()
        old = users.get(name)
        if role is None:
            role = Role.OPERATOR if old is None else old.role
        if role != Role.ADMIN:
            demand_another_admin(users, name, f"become {role}")
        self._note_role(name, role)
        if old is None and password is None:
            new = self._new_user(name, role)
        else:
            self._client_bundle(name, password=None, replace_revoked=True)
            if old is None:
                new = User(role=role, password_hash=self._hash(password or ""), created_at=self._now)
            else:
                new = replace(old, role=role)
                if password is not None and not password_matches(password, old.password_hash):
                    new = replace(new, password_hash=self._hash(password))
        if new.disabled:
            self.result.notes.append(f"{name} stays disabled: `jobpki enable {name}`")
        if new != old:
            make_folder(self._layout.auth, mode=CLOSED_MODE)
            self._write_users(users | {name: new})
            record(
                self._layout,
                "user.add" if old is None else "user.change",
                subject=f"user/{name}",
                role=str(role),
                password=True if old is not None and new.password_hash != old.password_hash else None,
            )
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
            self._layout.ca_certificate.name: (pem(authority.certificate), PUBLIC_MODE),
        }
        publish_folder(self._layout.ca, files, mode=CLOSED_MODE)
        record(self._layout, "authority.make", trust_domain=trust_domain)
        self.result.trust_domain = trust_domain
        self.result.made.append(self._layout.ca)

    def _new_user(self, name: str, role: Role) -> User:
        """A user's bundle and the entry to be written, which comes last: a run cut off between finds the password."""
        path = self._layout.password(name)
        found = path.exists()
        password = _text(path) if found else secrets.token_urlsafe(PASSWORD_RANDOM_BYTES)
        self._client_bundle(name, password=password)
        if not path.exists():
            make_folder(self._layout.clients, mode=CLIENTS_MODE)
            make_folder(self._layout.client(name), mode=CLOSED_MODE)
            publish_file(path, f"{password}\n".encode(), mode=SECRET_MODE)
        self.result.passwords[name] = password
        return User(role=role, password_hash=self._hash(password), created_at=self._now)

    def _hash(self, password: str) -> str:
        return hash_password(password, self._cost)

    def _client_bundle(self, name: str, *, password: str | None, replace_revoked: bool = False) -> None:
        subject = subject_of(self._layout, f"user/{name}")
        if not self._certificates:
            return
        if _whole(subject.folder):
            certificate = load_certificate(subject.folder / CERTIFICATE_FILE)
            if not replace_revoked or identifier(certificate) not in self._issuing.revoked():
                return
            key = keys.generate()  # the other may be in other hands
        else:
            # Of a bundle that lost another file, so that tokens bound to it live on.
            key = key_of(subject.folder) or keys.generate()
        files = {} if password is None else {PASSWORD_FILE: (f"{password}\n".encode(), SECRET_MODE)}
        self._make_bundle(subject, self._lifetimes.client, key=key, files=files)

    def _make_bundle(
        self,
        subject: Subject,
        lifetime: timedelta,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        names: Sequence[str | IpAddress] = (),
        files: Mapping[str, tuple[bytes, int]] | None = None,
    ) -> None:
        folder = subject.folder
        if not (folder / CA_FILE).exists() and all((folder / name).exists() for name in (CERTIFICATE_FILE, KEY_FILE)):
            # Nothing is missing but what is to be trusted: the certificate is as good as it was.
            publish_file(folder / CA_FILE, self._issuing.trust_pem(), mode=PUBLIC_MODE)
        else:
            key = key or key_of(folder) or keys.generate()
            # Not for a shorter time than it was valid for.
            lifetime = max(lifetime, self._issuing.known_end(subject) - self._now)
            self._issuing.bundle(subject, lifetime=lifetime, key=key, names=names, files=files)
        self.result.made.append(folder)

    def _read_users(self) -> dict[str, User]:
        return read_users(self._layout.users) if self._layout.users.exists() else {}

    def _write_users(self, users: Mapping[str, User]) -> None:
        write_users(self._layout.users, users)
        self.result.made.append(self._layout.users)

    def _note_other_names(self, names: Sequence[str | IpAddress]) -> None:
        path = self._layout.server / CERTIFICATE_FILE
        have = server_names(load_certificate(path))
        missing = ", ".join(str(name) for name in names if name not in have)
        if missing and have:
            self.result.notes.append(f"{path} stays without {missing}: `jobpki renew server --san NAME` changes names")


def demand_another_admin(users: Mapping[str, User], name: str, deed: str) -> None:
    """That somebody else is an administrator, or that this one is none.

    Raises:
        PkiError: this is the only one who can be; `deed`: what it was to do.
    """
    if name in users and users[name].role == Role.ADMIN and not users[name].disabled:
        others = (user for other, user in users.items() if other != name)
        if not any(user.role == Role.ADMIN and not user.disabled for user in others):
            raise PkiError(f"{name} is the only administrator and cannot {deed}")


def _whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE))


def _text(path: Path) -> str:
    try:
        return read_secret(path).decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise PkiError("is not text", path=path) from error

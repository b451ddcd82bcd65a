"""A PKI in a folder, made fast: the real one, with password hashes that cost nothing."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jobpki.bundle import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from jobpki.directory import initialise
from jobpki.layout import Layout
from jobpki.profiles import PasswordCost
from jobpki.users import Role

USERS = {"alice": Role.OPERATOR, "bob": Role.OPERATOR, "vic": Role.VIEWER}  # beside admin
_SECONDS = 60.0
LOW_COST = PasswordCost(iterations=1, lanes=1, memory_kib=8)


@dataclass(frozen=True)
class Pki:
    """A folder with a PKI for alice and bob (operators), vic (viewer) and admin; passwords by user."""

    root: Path
    passwords: dict[str, str]

    @property
    def layout(self) -> Layout:
        """Its paths."""
        return Layout(self.root)

    def client(self, user: str) -> Path:
        """The user's bundle folder."""
        return self.layout.client(user)

    def certificate_pem(self, user: str) -> bytes:
        """The user's certificate, as a TLS layer hands it on."""
        return (self.client(user) / CERTIFICATE_FILE).read_bytes()


def make_pki(root: Path, *, now: datetime | None = None, trust_domain: str | None = None) -> Pki:
    """Makes it: some 20 ms."""
    result = initialise(root, now=now or datetime.now(UTC), users=USERS, trust_domain=trust_domain, cost=LOW_COST)
    return Pki(root=root, passwords=result.passwords)


def server_context(bundle: Path) -> ssl.SSLContext:
    """A TLS server that asks for a client certificate of the bundle's authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=bundle / CA_FILE)
    context.verify_mode = ssl.CERT_REQUIRED
    return _with_own(context, bundle)


def client_context(bundle: Path, *, ca: Path | None = None, with_certificate: bool = True) -> ssl.SSLContext:
    """A TLS client with a bundle, that trusts the bundle's authority, or `ca`."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca or bundle / CA_FILE)
    return _with_own(context, bundle) if with_certificate else context


def shown_certificate(port: int, bundle: Path) -> bytes:
    """The certificate that a listener on this machine shows to a new connection, DER."""
    context = client_context(bundle)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), _SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def _with_own(context: ssl.SSLContext, bundle: Path) -> ssl.SSLContext:
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # RFC 5280 to the letter; Python 3.13 does so by default
    context.load_cert_chain(bundle / CERTIFICATE_FILE, bundle / KEY_FILE)
    return context

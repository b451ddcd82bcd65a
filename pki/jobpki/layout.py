"""Every path of a PKI folder and its modes; nowhere else. What is made has exactly these, whatever the umask; what of
them is demanded of files that are there is in access.py.

.         0711                                         others may pass through to their bundle, and list none
ca/       0700  ca.key 0600, ca.crt                    only jobpki reads it
                issued.json 0600                       what it has signed and is not yet expired
                next.key 0600, next.crt                the authority to be, while it is rotated; or
                previous.key 0600, previous.crt        the one that was
server/   0700  ca.crt, tls.crt, tls.key 0600          the server's bundle
health/   0700  ca.crt, tls.crt, tls.key 0600          of `jobworker healthcheck`; opens nothing else
clients/  0711  <name>/ 0700: ca.crt, tls.crt, tls.key 0600, password 0600 (a generated one)
auth/     0700  token.key 0600, users.json 0600        only the server reads it
                crl.pem                                what is revoked: a CRL of each authority that has revoked
                revoked-tokens.json 0600               tokens that were revoked, by their id
.lock     0600  flock(2): one writer at a time
audit.jsonl 0600                                       each change that jobpki has made (audit.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# A bundle's files have the names of a Kubernetes TLS secret.
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "tls.crt", "tls.key"
PASSWORD_FILE = "password"  # noqa: S105 - a file's name

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
CLOSED_MODE = 0o700
# Other users of the machine may pass through to a bundle that was given to them, and list none.
ROOT_MODE = CLIENTS_MODE = 0o711


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths under one root."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by whoever writes."""
        return self.root / ".lock"

    @property
    def ca(self) -> Path:
        """The authority's folder."""
        return self.root / "ca"

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate, public."""
        return self.ca / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key: may be taken away while nothing is to be issued."""
        return self.ca / "ca.key"

    @property
    def ca_next(self) -> Path:
        """The certificate of the authority that is to sign, while it is rotated; its key beside it."""
        return self.ca / "next.crt"

    @property
    def ca_previous(self) -> Path:
        """The certificate of the authority that has signed before; its key beside it, which signs its CRL."""
        return self.ca / "previous.crt"

    @property
    def issued(self) -> Path:
        """What the authority has signed."""
        return self.ca / "issued.json"

    @property
    def server(self) -> Path:
        """The server's bundle."""
        return self.root / "server"

    @property
    def health(self) -> Path:
        """The bundle of whoever asks the server for its health, and may do nothing else."""
        return self.root / "health"

    @property
    def clients(self) -> Path:
        """The folder of client bundles."""
        return self.root / "clients"

    @property
    def auth(self) -> Path:
        """What the server checks logins and tokens with."""
        return self.root / "auth"

    @property
    def token_key(self) -> Path:
        """The key that tokens are signed with (ES256)."""
        return self.auth / "token.key"

    @property
    def users(self) -> Path:
        """The users file."""
        return self.auth / "users.json"

    @property
    def crl(self) -> Path:
        """The revoked certificates (RFC 5280), PEM; not there as long as there are none."""
        return self.auth / "crl.pem"

    @property
    def revoked_tokens(self) -> Path:
        """The tokens that were revoked one by one; not there as long as there are none."""
        return self.auth / "revoked-tokens.json"

    def client(self, user: str) -> Path:
        """A user's bundle."""
        return self.clients / user

    def password(self, user: str) -> Path:
        """The password that was generated for a user, beside the bundle."""
        return self.client(user) / PASSWORD_FILE

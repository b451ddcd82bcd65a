"""What the listeners' TLS is made of: the server's bundle, after it was found good, and another one when its files
change. Knows no gRPC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from jobpki.bundle import check_server_bundle
from jobpki.errors import PkiError
from jobpki.examine import demand_closed_authority
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Layout
from jobworker.server.identity.current import signature


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM for the listeners, and the trust domain that its users belong to."""

    private_key_pem: bytes
    certificate_chain_pem: bytes
    ca_pem: bytes
    trust_domain: str
    not_after: datetime
    ca_not_after: datetime  # of the first authority to end


def load_tls(pki: Path, *, now: datetime) -> TlsMaterial:
    """Reads and checks `<pki>/server`; and that the authority's key, if it is there, is not for others to read.

    Raises:
        PkiError: one line that says which file is not usable, and why.
    """
    demand_closed_authority(Layout(pki))
    bundle = check_server_bundle(pki, now=now)
    return TlsMaterial(
        private_key_pem=bundle.key_pem,
        certificate_chain_pem=bundle.chain_pem,
        ca_pem=bundle.ca_pem,
        trust_domain=bundle.trust_domain,
        not_after=bundle.not_after,
        ca_not_after=min(ca.not_valid_after_utc for ca in x509.load_pem_x509_certificates(bundle.ca_pem)),
    )


class CurrentTls:
    """The server's bundle as it is now: `look` every second or so, and listen with `material`."""

    def __init__(self, pki: Path, *, clock: Callable[[], datetime], on_problem: Callable[[str], object]) -> None:
        """Reads the bundle.

        Args:
            pki: the PKI folder.
            clock: gives an aware time.
            on_problem: told in one line, once, that changed files are no good and the last good ones stay in force.

        Raises:
            PkiError: the bundle is not usable.
        """
        self._pki = pki
        server = Layout(pki).server
        self._paths = (server / CERTIFICATE_FILE, server / KEY_FILE, server / CA_FILE)
        self._clock = clock
        self._on_problem = on_problem
        self._problem: str | None = None
        self._taken = self._seen = signature(*self._paths)
        self.material = load_tls(pki, now=clock())

    @property
    def problem(self) -> str | None:
        """What is wrong with the files, or with what is in force, now."""
        if self._problem is None and self._clock() > self.material.not_after:
            return f"{self._paths[0]}: has expired on {self.material.not_after:%Y-%m-%d %H:%M:%S} UTC"
        return self._problem

    def look(self) -> bool:
        """Takes the files into force if they changed and are good; True: `material` is another one.

        A change is taken at the look after the one that saw it: not every writer replaces all files in one step. One
        that is refused is tried again at each look, since a certificate may be valid only a moment later."""
        seen = signature(*self._paths)
        settled, self._seen = seen == self._seen, seen
        if not settled or (seen == self._taken and self._problem is None):
            return False
        try:
            found = load_tls(self._pki, now=self._clock())
            if found.trust_domain != self.material.trust_domain:
                domains = f"is of {found.trust_domain}, and this server is of {self.material.trust_domain}"
                raise PkiError(domains, path=self._paths[0], mend="restart the server to change its trust domain")
        except PkiError as error:
            problem = f"{error}; the server's certificate and authorities read before stay in force"
            if problem != self._problem:
                self._problem = problem
                self._on_problem(problem)
            return False
        self._problem, self._taken = None, seen
        changed, self.material = found != self.material, found
        return changed

    def expiries(self) -> list[tuple[str, datetime]]:
        """Names and ends of the certificates in force: `ca`, the first authority to end, and `server`."""
        return [("ca", self.material.ca_not_after), ("server", self.material.not_after)]

"""Everything that could be wrong with a PKI folder, as of a time. Reads only.

`examine` tells what makes it unsafe or damaged. Here comes what makes it useless: chains, names, times, users.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobpki import keys
from jobpki.access import read_secret
from jobpki.bundle import (
    check_bundle,
    check_period,
    load_certificate,
    load_certificates,
    spiffe_id,
    spiffe_trust_domain,
)
from jobpki.errors import PkiError
from jobpki.examine import examine, with_remedy
from jobpki.issuing import SERVER, USER, Issuing, Subject, authorities, pem, server_names, subjects
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, PASSWORD_FILE, Layout
from jobpki.opened import exists, parts
from jobpki.passwords import password_matches
from jobpki.profiles import BACKDATE
from jobpki.publish import leftovers, reading
from jobpki.revocation import Identifier, identifier
from jobpki.users import Role, User, read_users

_SOON = timedelta(days=30)
_SERIAL_BITS_MIN = 64  # CA/Browser Forum, Baseline Requirements section 7.1


class Verification:
    """What was found: `faults`, which are to be mended, and `warnings`, which are to be known. The path, what is wrong
    with it and what to do are one line of each."""

    def __init__(self, root: Path, *, now: datetime) -> None:
        """Looks through the folder.

        Args:
            root: the PKI folder.
            now: an aware time.

        Raises:
            PkiError: there is no PKI.
        """
        if not exists(root):
            raise PkiError("holds no PKI yet: `jobpki init` makes one", path=root)
        self._layout = Layout(root)
        self._now = now
        self._run = f"--dir {shlex.quote(str(root))}"
        self.faults: list[PkiError] = []
        self.warnings: list[PkiError] = []
        with reading(self._layout.lock):
            self.faults += examine(self._layout)
            self._look()

    def _look(self) -> None:
        for folder in parts(self._layout):
            for path in leftovers(folder):
                self._warn("is left of a run that was cut off", path, "the next change removes it")
        self._clock()
        authority = self._authority()
        revoked = self._revoked()
        found = list(subjects(self._layout))
        for subject in found:
            if subject.is_ours and any((subject.folder / name).exists() for name in (CERTIFICATE_FILE, CA_FILE)):
                self._bundle(subject, authority, revoked)
        if authority is not None and not any(subject.kind == SERVER for subject in found):
            self._fault("is missing", self._layout.server, f"run: jobpki init {self._run}")
        self._token_key()
        self._users({subject.name: subject for subject in found if subject.kind == USER})

    # -- what is looked at

    def _clock(self) -> None:
        """Files are written in the past."""
        paths = [path for folder in parts(self._layout) if folder.is_dir() for path in folder.iterdir()]
        times = [(path.lstat().st_mtime, path) for path in paths if path.is_file()]
        newest, path = max(times, default=(0.0, self._layout.root))
        if newest > (self._now + BACKDATE).timestamp():
            written = datetime.fromtimestamp(newest, UTC)
            self._fault(
                f"was written on {written:%Y-%m-%d %H:%M:%S} UTC, and the clock says {self._now:%Y-%m-%d %H:%M:%S} UTC",
                path,
                "set this machine's clock right",
            )

    def _authority(self) -> x509.Certificate | None:
        layout = self._layout
        if not layout.ca_certificate.exists():
            if layout.ca.exists():
                self._fault("is missing", layout.ca_certificate, "bring it back from a backup")
            return None
        for path in (layout.ca_certificate, layout.ca_next, layout.ca_previous):
            if path.exists():
                self._one_authority(path)
        if not layout.ca_key.exists():
            self._warn("is not here: nothing can be issued, renewed or revoked", layout.ca_key)
        try:
            return load_certificate(layout.ca_certificate)
        except PkiError:
            return None  # examine has told it

    def _one_authority(self, path: Path) -> None:
        try:
            certificate = load_certificate(path)
        except PkiError:
            return
        try:
            check_period(certificate, path, self._now)
        except PkiError as error:
            self._fault(error.problem, path, with_remedy(self._layout, error).mend)
        else:
            if path == self._layout.ca_certificate and certificate.not_valid_after_utc - self._now < 3 * _SOON:
                self._soon(certificate, path, f"run: jobpki rotate-ca prepare {self._run}")
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
            is_authority = constraints.ca and usage.key_cert_sign
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority:
            self._fault("is not a certificate of an authority", path, "bring it back from a backup")

    def _revoked(self) -> set[Identifier]:
        try:
            return set(Issuing(self._layout, now=self._now).revoked())
        except PkiError:
            return set()

    def _bundle(self, subject: Subject, authority: x509.Certificate | None, revoked: set[Identifier]) -> None:
        folder, path = subject.folder, subject.folder / CERTIFICATE_FILE
        usage = ExtendedKeyUsageOID.SERVER_AUTH if subject.kind == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
        name = f"user/{subject.name}" if subject.kind == USER and subject.name in (SERVER, "health") else subject.name
        renew = f"run: jobpki renew {name} {self._run}" if authority is not None else "have its authority renew it"
        try:
            bundle = check_bundle(folder, usage=usage, now=self._now)
        except PkiError as error:
            is_foreign = "was not issued by" in error.problem
            told = with_remedy(self._layout, error)
            self._fault(error.problem, error.path or folder, renew if is_foreign else told.mend)
            return
        leaf = bundle.leaf
        if identifier(leaf) in revoked:
            again = f"run: jobpki issue {subject.name} {self._run}" if subject.kind == USER else renew
            self._fault("is revoked", path, again)
        uri = spiffe_id(leaf) or "no SPIFFE ID"
        if not uri.endswith(f"/{subject.identity}"):
            self._fault(f"is of {uri}, and not of {subject.identity}", path, renew)
        if authority is not None:
            domain = spiffe_trust_domain(authority)
            if spiffe_trust_domain(leaf) != domain:
                self._fault(f"is of {uri}, and not of the trust domain {domain}", path, renew)
            trusted = {pem(certificate) for certificate in load_certificates(bundle.ca_pem, folder / CA_FILE)}
            if missing := [c for c in authorities(self._layout) if pem(c) not in trusted]:
                names = ", ".join(certificate.subject.rfc4514_string() for certificate in missing)
                self._fault(f"does not hold the authority {names}", folder / CA_FILE, renew)
        if subject.kind == SERVER and not server_names(leaf):
            mend = f"run: jobpki renew server --san NAME {self._run}"
            self._fault("has no name or address to be called by", path, mend)
        if leaf.serial_number.bit_length() < _SERIAL_BITS_MIN // 2:
            self._warn(f"has the short serial {leaf.serial_number:x}: it can be guessed", path, renew)
        if leaf.not_valid_after_utc - self._now < _SOON:
            self._soon(leaf, path, renew)

    def _token_key(self) -> None:
        if not self._layout.token_key.exists():
            self._fault("is missing", self._layout.token_key, f"run: jobpki init {self._run}")
            return
        try:
            found = keys.p256s_from_pem(read_secret(self._layout.token_key), self._layout.token_key)
        except PkiError:
            return  # examine has told it
        if len(found) > 1:
            mend = f"run: jobpki rotate-token-key --finish {self._run}"
            self._warn("holds two keys: tokens of the one before are still good", self._layout.token_key, mend)

    def _users(self, bundles: dict[str, Subject]) -> None:
        layout = self._layout
        if not layout.users.exists():
            self._fault("is missing", layout.users, f"run: jobpki init {self._run}")
            return
        try:
            users = read_users(layout.users)
        except PkiError:
            return
        if not any(user.role == Role.ADMIN and not user.disabled for user in users.values()):
            self._fault("has no administrator who may log in", layout.users, f"run: jobpki enable admin {self._run}")
        for name in sorted(bundles.keys() - users.keys()):
            mend = f"run: jobpki remove {name} {self._run}"
            self._warn("is the bundle of nobody who is a user", layout.client(name), mend)
        if layout.ca.exists():
            for name in sorted(users.keys() - bundles.keys()):
                self._warn(f"has the user {name}, who has no bundle here", layout.users)
        for name, subject in sorted(bundles.items()):
            if name in users and subject.is_ours:
                self._password(name, users[name], subject.folder / PASSWORD_FILE)

    def _password(self, name: str, user: User, path: Path) -> None:
        if not path.exists():
            return
        try:
            text = read_secret(path).decode().removesuffix("\n")
        except (PkiError, UnicodeDecodeError):
            return
        if password_matches(text, user.password_hash):
            self._warn(f"is the password of {name}, readable", path, "hand it on and delete it")
        else:
            self._fault(f"is not the password of {name}", path, f"run: jobpki passwd {name} {self._run}")

    # -- how it is told

    def _soon(self, certificate: x509.Certificate, path: Path, mend: str) -> None:
        days = (certificate.not_valid_after_utc - self._now) // timedelta(days=1)
        self._warn(f"ends on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC, in {days} days", path, mend)

    def _fault(self, problem: str, path: Path, mend: str) -> None:
        if not any((fault.path, fault.problem) == (path, problem) for fault in self.faults):
            self.faults.append(PkiError(problem, path=path, mend=mend))

    def _warn(self, problem: str, path: Path, mend: str = "") -> None:
        self.warnings.append(PkiError(problem, path=path, mend=mend))

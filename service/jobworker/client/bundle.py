"""A client's certificate bundle: a folder with `ca.crt`, `tls.crt`, `tls.key`, the names of a Kubernetes TLS secret.

Reading one that is open to other users of the machine warns, and works.
"""

from __future__ import annotations

import os
import shlex
import stat
import time
import warnings
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from jobworker.client.errors import BundleError

CA_FILE, CERTIFICATE_FILE, KEY_FILE = FILES = ("ca.crt", "tls.crt", "tls.key")
_LOOK_SECONDS = 1.0


class ExposedFileWarning(UserWarning):
    """Others may read a key, or change what is trusted; the message names the file and the command that closes it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Three PEM files, as bytes: who signs the service's certificate, ours, and its key."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Reads a folder; with an ExposedFileWarning where every user of this machine may read the key, or change a
        file.

        Raises:
            BundleError: a file is missing, unreadable or no PEM; the message names it.
        """
        contents = []
        for name in FILES:
            content, exposed = _pem(folder, name)
            contents.append(content)
            if exposed:
                warnings.warn(exposed, ExposedFileWarning, stacklevel=2)  # whoever reads the bundle
        return cls(*contents)

    def key_fits(self) -> bool:
        """Whether the key is the certificate's."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate)
            return load_pem_private_key(self.key, None).public_key() == certificate.public_key()
        except (TypeError, ValueError, UnsupportedAlgorithm):  # TypeError: of a key with a password
            return False


_Signature = tuple[tuple[int, int, int], ...]  # of each file; one that was written or replaced differs in it


class BundleFolder:
    """The bundle in a folder, which may be another later: renewed, or of another authority."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Reads it, as `Bundle.read` does."""
        self.folder = folder
        self._signature = self._look()  # before it is read: what changes meanwhile is seen at the next look
        self.bundle = Bundle.read(folder)
        self._looked_at = time.monotonic()

    def renewed(self, *, now: bool = False) -> bool:
        """Whether `bundle` is another since it was asked before. Looks at the files at most once a second, or `now`;
        one that is not whole (yet), or whose key does not fit (yet), is none."""
        if not now and time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        signature = self._look()
        if signature is None or signature == self._signature:
            return False
        try:
            found = Bundle(*(_pem(self.folder, name)[0] for name in FILES))
        except BundleError:
            return False
        if self._look() != signature or not found.key_fits():
            return False
        self._signature = signature
        changed = found != self.bundle
        self.bundle = found
        return changed

    def _look(self) -> _Signature | None:
        try:
            found = [os.stat(os.path.join(self.folder, name)) for name in FILES]
        except OSError:
            return None
        return tuple((status.st_mtime_ns, status.st_ino, status.st_size) for status in found)


def _pem(folder: str | os.PathLike[str], name: str) -> tuple[bytes, str]:
    """A file's content, and what others may do with it."""
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            content = file.read()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:  # gRPC would say of it, much later, only that the handshake failed
        raise BundleError(f"{path}: is not a PEM file")
    return content, exposure(path, mode, is_secret=name == KEY_FILE)


def exposure(path: str | os.PathLike[str], mode: int, *, is_secret: bool) -> str:
    """What every user of this machine may do with a file of this mode, and the command that ends it; empty: nothing
    that they should not."""
    if mode & stat.S_IWOTH:
        may = "change"
    elif is_secret and mode & stat.S_IRWXO:
        may = "read"
    else:
        return ""
    command = f"chmod {'0600' if is_secret else '0644'} {shlex.quote(os.fspath(path))}"
    return f"{os.fspath(path)}: every user of this machine may {may} it (mode {mode:04o}) - run: {command}"

"""A client's certificate bundle: a folder with `ca.crt`, `tls.crt`, `tls.key`, the names of a Kubernetes TLS secret.

Reading one that is open to other users of the machine warns, and works.
"""

from __future__ import annotations

import os
import shlex
import stat
import warnings
from dataclasses import dataclass, field

from jobworker.client.errors import BundleError


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
        return cls(ca=_pem(folder, "ca.crt"), certificate=_pem(folder, "tls.crt"), key=_pem(folder, "tls.key"))


def _pem(folder: str | os.PathLike[str], name: str) -> bytes:
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            content = file.read()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:  # gRPC would say of it, much later, only that the handshake failed
        raise BundleError(f"{path}: is not a PEM file")
    exposed = exposure(path, mode, is_secret=name == "tls.key")
    if exposed:
        warnings.warn(exposed, ExposedFileWarning, stacklevel=3)  # whoever reads the bundle
    return content


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

"""A client's certificate bundle: a folder with `ca.crt`, `tls.crt`, `tls.key`, the names of a Kubernetes TLS secret."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from jobworker.client.errors import BundleError


@dataclass(frozen=True, slots=True)
class Bundle:
    """Three PEM files, as bytes: who signs the service's certificate, ours, and its key."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Reads a folder.

        Raises:
            BundleError: a file is missing, unreadable or no PEM; the message names it.
        """
        return cls(ca=_pem(folder, "ca.crt"), certificate=_pem(folder, "tls.crt"), key=_pem(folder, "tls.key"))


def _pem(folder: str | os.PathLike[str], name: str) -> bytes:
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:  # gRPC would say of it, much later, only that the handshake failed
        raise BundleError(f"{path}: is not a PEM file")
    return content

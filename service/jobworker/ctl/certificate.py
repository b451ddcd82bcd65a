"""Whose certificate a bundle holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.ctl.exits import CtlError, Exit

if TYPE_CHECKING:
    from pathlib import Path


def user_of(bundle: Path) -> str:
    """The common name in the bundle's certificate: the user that the service knows.

    Raises:
        CtlError: the certificate cannot be read, or names nobody.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    path = bundle / "tls.crt"
    try:
        subject = x509.load_pem_x509_certificate(path.read_bytes()).subject
    except OSError as error:
        hint = "" if bundle.is_dir() else " - give your certificate bundle's folder by --bundle or JOBCTL_BUNDLE"
        raise CtlError(f"{path}: {error.strerror}{hint}", Exit.NOT_LOGGED_IN) from error
    except ValueError as error:
        raise CtlError(f"{path}: is not a certificate in PEM form", Exit.NOT_LOGGED_IN) from error
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        raise CtlError(f"{path}: names no user", Exit.NOT_LOGGED_IN)
    return str(names[0].value)

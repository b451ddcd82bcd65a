"""A bundle as one file: a tar of ca.crt, tls.crt and tls.key, to be given to whom it is for. Reads only."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from jobpki.access import read_public, read_secret
from jobpki.bundle import check_key_of, load_certificates
from jobpki.errors import PkiError
from jobpki.examine import with_remedy
from jobpki.issuing import subject_named
from jobpki.keys import from_pem
from jobpki.layout import (
    CA_FILE,
    CERTIFICATE_FILE,
    CLOSED_MODE,
    KEY_FILE,
    PASSWORD_FILE,
    PUBLIC_MODE,
    SECRET_MODE,
    Layout,
)
from jobpki.publish import reading


def export(root: Path, name: str, *, with_password: bool = False) -> bytes:
    """The tar (POSIX.1-1988, ustar) of a bundle: a folder of the name, with the modes that its files have here.

    Args:
        root: the PKI folder.
        name: `server`, `health` or a user's; one who is called so: `user/server`.
        with_password: also the password that was generated. It is better sent on another way.

    Raises:
        PkiError: there is no such bundle, it is damaged, or there is no such password here.
    """
    layout = Layout(root)
    subject = subject_named(layout, name)
    folder = subject.folder
    if not folder.is_dir():
        raise PkiError(f"there is no bundle of {name}: `jobpki list` shows them", path=folder)
    with reading(layout.lock):
        try:
            files = {
                CA_FILE: (read_public(folder / CA_FILE), PUBLIC_MODE),
                CERTIFICATE_FILE: (read_public(folder / CERTIFICATE_FILE), PUBLIC_MODE),
                KEY_FILE: (read_secret(folder / KEY_FILE), SECRET_MODE),
            }
            if with_password:
                files[PASSWORD_FILE] = (read_secret(folder / PASSWORD_FILE), SECRET_MODE)
            leaf = load_certificates(files[CERTIFICATE_FILE][0], folder / CERTIFICATE_FILE)[0]
            key = from_pem(files[KEY_FILE][0], folder / KEY_FILE)
            check_key_of(leaf, key, key_path=folder / KEY_FILE, certificate_path=folder / CERTIFICATE_FILE)
        except PkiError as error:
            raise with_remedy(layout, error) from error
    begin = int(leaf.not_valid_before_utc.timestamp())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        top = _entry(subject.name, CLOSED_MODE, begin)
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for file, (content, mode) in files.items():
            entry = _entry(f"{subject.name}/{file}", mode, begin)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _entry(name: str, mode: int, time: int) -> tarfile.TarInfo:
    """Owned by nobody in particular: it is unpacked by whom it is for."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime = mode, time
    return entry

"""Looks through a PKI folder for what would make it unsafe or unusable: files that others may read or change, that are
empty or cannot be parsed, keys that are not those of their certificates. A missing file is not a fault: it can be made.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from jobpki import keys
from jobpki.access import check_folder, check_secret, read_public, read_secret
from jobpki.bundle import check_key_of, load_certificate
from jobpki.errors import OutOfTimeError, PkiError
from jobpki.issued import read_issued
from jobpki.issuing import HEALTH, SERVER, USER, authorities, subjects
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, PASSWORD_FILE, Layout
from jobpki.revocation import load_crls, read_revoked
from jobpki.revokedtokens import read_revoked_tokens
from jobpki.users import read_users


def examine(layout: Layout) -> list[PkiError]:
    """Every fault, the authority's first. Each says what is wrong with which file, and what to do."""
    found: dict[str, PkiError] = {}  # a folder's fault is met with each of its files, and told once
    for check in _checks(layout):
        try:
            check()
        except PkiError as error:
            told = with_remedy(layout, error)
            found.setdefault(str(told), told)
    return list(found.values())


def demand(layout: Layout) -> None:
    """That there is no fault.

    Raises:
        PkiError: the first one, and how many more there are.
    """
    faults = examine(layout)
    if not faults:
        return
    more = f" ({len(faults) - 1} more: jobpki list --dir {shlex.quote(str(layout.root))})" if faults[1:] else ""
    raise PkiError(f"{faults[0].problem}{more}", path=faults[0].path, mend=faults[0].mend) from faults[0]


def demand_closed_authority(layout: Layout) -> None:
    """For the server, which never reads the authority's key: it may be in its folder, but not for others to read.

    Raises:
        PkiError: it is.
    """
    check_secret(layout.ca_key)


def with_remedy(layout: Layout, error: PkiError) -> PkiError:
    """The same error, with what brings a damaged file back where it does not say what to do."""
    path = error.path
    if path is None or error.mend or not path.is_relative_to(layout.root):
        return error
    file, jobpki = shlex.quote(str(path)), f"--dir {shlex.quote(str(layout.root))}"
    if isinstance(error, OutOfTimeError):
        mend = _renewal(layout, path, jobpki)
    elif path.parent == layout.ca or path == layout.root:
        mend = "bring it back from a backup"
    elif path == layout.crl:
        mend = "bring it back from a backup; without it, what was revoked is not"
    elif path == layout.revoked_tokens:
        mend = f"bring it back from a backup, or end all: rm {file} && jobpki rotate-token-key --at-once {jobpki}"
    elif path == layout.users:
        mend = f"bring it back from a backup, or begin with the user admin alone: rm {file} && jobpki init {jobpki}"
    elif path.parent.parent == layout.clients:
        mend = f"run: rm {file} && jobpki issue {path.parent.name} {jobpki}"
    else:
        mend = f"bring it back or, where jobpki has made it, run: rm -f {file} && jobpki init {jobpki}"
    return PkiError(error.problem, path=path, mend=mend)


def _renewal(layout: Layout, path: Path, jobpki: str) -> str:
    if not layout.ca_certificate.exists():
        return "have the authority that issued it renew it"
    if path.name == CA_FILE:
        return f"run: jobpki rotate-ca prepare {jobpki}"
    name = path.parent.name
    is_ambiguous = path.parent.parent == layout.clients and name in (SERVER, HEALTH)
    return f"run: jobpki renew {f'{USER}/{name}' if is_ambiguous else name} {jobpki}"


def _checks(layout: Layout) -> Iterator[Callable[[], object]]:
    for folder in (layout.root, layout.ca, layout.server, layout.health, layout.clients, layout.auth):
        if folder.is_dir():
            yield lambda folder=folder: check_folder(folder)  # type: ignore[misc]
    for certificate in (layout.ca_certificate, layout.ca_next, layout.ca_previous):
        yield lambda path=certificate: _check_pair(path.with_suffix(".key"), path)  # type: ignore[misc]
    yield lambda: read_issued(layout.issued)
    for path, check in (
        (layout.token_key, lambda: keys.p256s_from_pem(read_secret(layout.token_key), layout.token_key)),
        (layout.users, lambda: read_users(layout.users)),
        (layout.revoked_tokens, lambda: read_revoked_tokens(layout.revoked_tokens)),
        (layout.crl, lambda: _check_crl(layout)),
    ):
        if _is_there(path):
            yield check
    for subject in subjects(layout):
        if subject.is_ours:
            yield from _bundle_checks(subject.folder)
            password = subject.folder / PASSWORD_FILE
            if _is_there(password):
                yield lambda path=password: read_secret(path)  # type: ignore[misc]


def _check_crl(layout: Layout) -> None:
    """Who has no authority here has its own lists, and those of others; the server sees who signed them."""
    if found := authorities(layout):
        read_revoked(layout.crl, found)
    else:
        load_crls(read_public(layout.crl), layout.crl)


def _bundle_checks(folder: Path) -> Iterator[Callable[[], object]]:
    if _is_there(folder / CA_FILE):
        yield lambda: load_certificate(folder / CA_FILE)
    yield lambda: _check_pair(folder / KEY_FILE, folder / CERTIFICATE_FILE)


def _check_pair(key_path: Path, certificate_path: Path) -> None:
    key = keys.from_pem(read_secret(key_path), key_path) if _is_there(key_path) else None
    certificate = load_certificate(certificate_path) if _is_there(certificate_path) else None
    if key is not None and certificate is not None:
        check_key_of(certificate, key, key_path=key_path, certificate_path=certificate_path)


def _is_there(path: Path) -> bool:
    """Also as a symbolic link that leads nowhere, which is not a gap to fill but a fault."""
    return os.path.lexists(path)

"""Looks through a PKI folder for what would make it unsafe or unusable: files that others may read or change, that are
empty or cannot be parsed, keys that are not those of their certificates. What is missing is no fault: it can be made.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from jobpki import keys
from jobpki.access import check_folder, check_secret, read_secret
from jobpki.bundle import check_key_of, load_certificate
from jobpki.errors import PkiError
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Layout
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
    if path.parent == layout.ca or path == layout.root:
        mend = "bring it back from a backup"
    elif path == layout.users:
        mend = f"bring it back from a backup, or begin with the user admin alone: rm {file} && jobpki init {jobpki}"
    elif path.parent.parent == layout.clients:
        mend = f"run: rm {file} && jobpki issue {path.parent.name} --role ROLE {jobpki}"
    else:
        mend = f"bring it back or, where jobpki has made it, run: rm -f {file} && jobpki init {jobpki}"
    return PkiError(error.problem, path=path, mend=mend)


def _checks(layout: Layout) -> Iterator[Callable[[], object]]:
    for folder in (layout.root, layout.ca, layout.server, layout.health, layout.clients, layout.auth):
        if folder.is_dir():
            yield lambda folder=folder: check_folder(folder)  # type: ignore[misc]
    yield lambda: _check_pair(layout.ca_key, layout.ca_certificate)
    for bundle in (layout.server, layout.health):
        yield from _bundle_checks(bundle)
    if _is_there(layout.token_key):
        yield lambda: keys.p256_from_pem(read_secret(layout.token_key), layout.token_key)
    if _is_there(layout.users):
        yield lambda: read_users(layout.users)
    for bundle in _client_bundles(layout):
        yield from _bundle_checks(bundle)
        password = layout.password(bundle.name)
        if _is_there(password):
            yield lambda password=password: read_secret(password)  # type: ignore[misc]


def _bundle_checks(folder: Path) -> Iterator[Callable[[], object]]:
    if _is_there(folder / CA_FILE):
        yield lambda: load_certificate(folder / CA_FILE)
    yield lambda: _check_pair(folder / KEY_FILE, folder / CERTIFICATE_FILE)


def _check_pair(key_path: Path, certificate_path: Path) -> None:
    key = keys.from_pem(read_secret(key_path), key_path) if _is_there(key_path) else None
    certificate = load_certificate(certificate_path) if _is_there(certificate_path) else None
    if key is not None and certificate is not None:
        check_key_of(certificate, key, key_path=key_path, certificate_path=certificate_path)


def _client_bundles(layout: Layout) -> Iterator[Path]:
    """Those that are still ours: one that was given to its user (chown) is that user's to look after."""
    try:
        folders = sorted(layout.clients.iterdir())
    except OSError:
        return
    for folder in folders:
        if not folder.name.startswith(".") and folder.is_dir() and os.geteuid() in (0, folder.stat().st_uid):
            yield folder


def _is_there(path: Path) -> bool:
    """Also as a symbolic link that leads nowhere, which is no gap to fill but a fault."""
    return os.path.lexists(path)

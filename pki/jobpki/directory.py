"""Makes a PKI folder complete: the authority, the server's bundle, the token key, users with their bundles.

What is there is never replaced, each folder and file appears whole or not at all, and one run at a time holds the lock:
a run that was cut off is finished by the next, and a run on a complete folder writes nothing. A damaged file, or one
that others may read or change, is an error, not a gap to fill.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from jobpki.errors import PkiError
from jobpki.layout import Layout
from jobpki.opened import exists, opened
from jobpki.passwords import check_password
from jobpki.profiles import (
    ADMIN,
    Lifetimes,
    PasswordCost,
    check_trust_domain,
    check_user_name,
    subject_name,
)
from jobpki.provisioner import InitResult, Provisioner
from jobpki.users import Role

__all__ = ["InitResult", "exists", "initialise", "issue", "usual_names"]


def initialise(
    root: Path,
    *,
    now: datetime,
    sans: Iterable[str] | None = None,
    users: Mapping[str, Role] | None = None,
    trust_domain: str | None = None,
    lifetimes: Lifetimes | None = None,
    cost: PasswordCost | None = None,
    certificates: bool = True,
) -> InitResult:
    """Makes a PKI, or what is missing of one; on a complete one it writes nothing.

    Args:
        root: the folder, made with its parents if need be.
        now: an aware time; certificates are valid from shortly before it.
        sans: names and addresses of the server; None: localhost, the host's name and the loopback addresses.
        users: to be there with a bundle and an entry; `admin` always is. The role of one that is there stays.
        trust_domain: None: that of the authority that is there, or "jobworker".
        certificates: False: another authority issues them; only the token key and users with passwords are made.

    Raises:
        PkiError: a file is damaged or open to others, an option contradicts what is there, or something cannot be
            written.
    """
    wanted = _wanted_users(users or {})
    names = [subject_name(text) for text in (usual_names() if sans is None else sans)]
    if trust_domain is not None:
        check_trust_domain(trust_domain)
    with opened(root) as layout:
        provisioner = _provisioner(layout, now, lifetimes, cost, certificates=certificates)
        if certificates:
            provisioner.authority(trust_domain)
            provisioner.server(names)
            provisioner.health()
        provisioner.token_key()
        provisioner.users(wanted)
        return provisioner.result


def issue(
    root: Path,
    name: str,
    *,
    role: Role | None,
    now: datetime,
    password: str | None = None,
    lifetimes: Lifetimes | None = None,
    cost: PasswordCost | None = None,
    certificates: bool = True,
) -> InitResult:
    """Makes sure that a user is there with this role and a bundle, and with this password if one is given.

    A new user without one gets a generated password, left in the bundle. `role`: None: that of one who is there, or
    operator. A certificate that is there stays unless it is revoked; without `certificates` none is made. What is
    issued anew does not end before what was there.

    Raises:
        PkiError: no PKI, a file in it is damaged or open to others, a bad name or password, or no administrator would
            be left.
    """
    check_user_name(name)
    if password is not None:
        check_password(password)
    with opened(root, made=False) as layout:
        provisioner = _provisioner(layout, now, lifetimes, cost, certificates=certificates)
        if certificates:
            provisioner.authority(None)
        provisioner.user(name, role, password)
        return provisioner.result


def _provisioner(
    layout: Layout, now: datetime, lifetimes: Lifetimes | None, cost: PasswordCost | None, *, certificates: bool
) -> Provisioner:
    return Provisioner(
        layout, now=now, lifetimes=lifetimes or Lifetimes(), cost=cost or PasswordCost(), certificates=certificates
    )


def usual_names() -> list[str]:
    """What a server is called on its own machine: localhost, the host's name if it can be one, loopback addresses."""
    names = ["localhost", "127.0.0.1", "::1"]
    host = socket.gethostname()
    try:
        subject_name(host)
    except PkiError:  # a host's name may have underscores, a DNS name may not
        return names
    return names if host.lower() == "localhost" else [names[0], host, *names[1:]]


def _wanted_users(users: Mapping[str, Role]) -> dict[str, Role]:
    for name in users:
        check_user_name(name)
    if users.get(ADMIN, Role.ADMIN) != Role.ADMIN:
        raise PkiError(f"the user {ADMIN!r} is the first administrator and cannot be {users[ADMIN]}")
    return {ADMIN: Role.ADMIN, **users}

"""Users through their life: another password, logged out, shut out for a time, let in again, removed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobpki.audit import record
from jobpki.errors import PkiError
from jobpki.issuing import Issuing, not_ours, subject_of
from jobpki.layout import CLIENTS_MODE, CLOSED_MODE, SECRET_MODE, Layout
from jobpki.opened import opened
from jobpki.passwords import check_password, hash_password, password_matches
from jobpki.profiles import ADMIN, PasswordCost, check_user_name
from jobpki.provisioner import PASSWORD_RANDOM_BYTES, demand_another_admin
from jobpki.publish import make_folder, publish_file, remove_file, remove_folder
from jobpki.revocation import REASONS
from jobpki.revoking import revoke_certificates
from jobpki.users import User, read_users, write_users


@dataclass(slots=True)
class Change:
    """What was done, a line each; nothing: it was so already. `password`: one that was generated."""

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    password: str | None = None


def set_password(root: Path, name: str, password: str | None, *, cost: PasswordCost | None = None) -> Change:
    """Another password for a user, whose tokens end with it; None: one is generated, and left in the bundle.

    Raises:
        PkiError: there is no such user, or the password is too short or too long.
    """
    if password is not None:
        check_password(password)
    with opened(root, made=False) as layout:
        users = _users(layout, name)
        path = layout.password(name)
        new = secrets.token_urlsafe(PASSWORD_RANDOM_BYTES) if password is None else password
        change = Change(password=new if password is None else None)
        if password is None:
            make_folder(layout.clients, mode=CLIENTS_MODE)
            make_folder(layout.client(name), mode=CLOSED_MODE)
            publish_file(path, f"{new}\n".encode(), mode=SECRET_MODE)
        if not password_matches(new, users[name].password_hash):
            hashed = hash_password(new, cost or PasswordCost())
            write_users(layout.users, users | {name: replace(users[name], password_hash=hashed)})
            record(layout, "user.passwd", subject=f"user/{name}")
            change.done.append(f"{name} has another password; tokens given out before are void")
        if password is not None:
            remove_file(path)  # one that was generated opens nothing any more
        return change


def disable(root: Path, name: str) -> Change:
    """Shuts a user out, at the next call of each connection, and voids its tokens. Role, password, bundle stay.

    Raises:
        PkiError: there is no such user, or it is the only administrator.
    """
    with opened(root, made=False) as layout:
        users = _users(layout, name)
        demand_another_admin(users, name, "be disabled")
        if users[name].disabled:
            return Change()
        entry = replace(users[name], disabled=True, epoch=users[name].epoch + 1)
        write_users(layout.users, users | {name: entry})
        record(layout, "user.disable", subject=f"user/{name}")
        return Change(done=[f"{name} is disabled; tokens given out before are void"])


def enable(root: Path, name: str) -> Change:
    """Lets a user in again that was disabled.

    Raises:
        PkiError: there is no such user.
    """
    with opened(root, made=False) as layout:
        users = _users(layout, name)
        if not users[name].disabled:
            return Change()
        write_users(layout.users, users | {name: replace(users[name], disabled=False)})
        record(layout, "user.enable", subject=f"user/{name}")
        return Change(done=[f"{name} is enabled"])


def log_out(root: Path, name: str, *, before: datetime | None = None, now: datetime) -> Change:
    """Voids the tokens of a user: all that were given out so far, or those before a time, an aware one, in whole
    seconds, as tokens have them.

    Raises:
        PkiError: there is no such user, or the time is yet to come.
    """
    if before is not None and before > now:
        raise PkiError("the time is yet to come: without one, all tokens given out so far are void")
    if before is not None and before.microsecond:
        before = before.replace(microsecond=0) + timedelta(seconds=1)
    with opened(root, made=False) as layout:
        users = _users(layout, name)
        user = users[name]
        if before is None:
            # Not the time of now: tokens have whole seconds, and the server's clock may be another.
            entry = replace(user, epoch=user.epoch + 1)
            done = f"tokens of {name} given out so far are void"
        elif user.tokens_from is not None and user.tokens_from >= before:
            return Change()
        else:
            entry = replace(user, tokens_from=before)
            done = f"tokens of {name} given out before {before.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC are void"
        write_users(layout.users, users | {name: entry})
        record(layout, "user.logout", subject=f"user/{name}", before=None if before is None else before.isoformat())
        return Change(done=[done])


def remove(root: Path, name: str, *, now: datetime) -> Change:
    """Removes a user: the entry first, then its certificates are revoked, then the bundle goes.

    Raises:
        PkiError: there is no such user, or it is one that has to be.
    """
    check_user_name(name)
    if name == ADMIN:
        raise PkiError(f"{ADMIN} cannot be removed, `jobpki init` would make it again: disable it")
    with opened(root, made=False) as layout:
        users = read_users(layout.users) if layout.users.exists() else {}
        subject = subject_of(layout, f"user/{name}")
        issuing = Issuing(layout, now=now)
        known = issuing.known(subject)
        if name not in users and not subject.folder.exists() and not known:
            raise PkiError(f"there is no user {name}")
        demand_another_admin(users, name, "be removed")
        change = Change()
        if name in users:
            write_users(layout.users, {other: user for other, user in users.items() if other != name})
            record(layout, "user.remove", subject=f"user/{name}")
            change.done.append(f"{name} is not a user any more")
        if known and not layout.ca_key.exists():
            change.notes.append(f"its certificates are not revoked: {layout.ca_key} is not here")
        else:
            serials = [entry.serial for entry in known]
            reason = REASONS["cessation-of-operation"]
            change.done += [f"revoked {serial:x}" for serial in revoke_certificates(issuing, serials, reason, now=now)]
        if subject.folder.exists() and not subject.is_ours:
            change.notes.append(not_ours(subject))
        elif subject.folder.exists():
            remove_folder(subject.folder)
            record(layout, "bundle.remove", subject=subject.identity)
            change.done.append(f"removed {subject.folder}")
        return change


def _users(layout: Layout, name: str) -> dict[str, User]:
    """Every user.

    Raises:
        PkiError: there is none of this name.
    """
    check_user_name(name)
    users = read_users(layout.users) if layout.users.exists() else {}
    if name not in users:
        raise PkiError(f"there is no user {name}: `jobpki list --dir {layout.root}` shows them")
    return users

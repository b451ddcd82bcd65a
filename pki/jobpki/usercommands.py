"""The commands about users: `passwd`, `disable`, `enable`, `remove`."""

from __future__ import annotations

import typer

from jobpki import accounts
from jobpki.layout import Layout
from jobpki.options import DEFAULT_DIR, DirOption, PasswordOption, UserArgument, now, read_password, tell


def passwd(name: UserArgument, root: DirOption = DEFAULT_DIR, password_file: PasswordOption = None) -> None:
    """Give a user another password. Its tokens end at once; its certificate stays."""
    change = accounts.set_password(root, name, None if password_file is None else read_password(password_file))
    tell(change.done)
    if change.password is not None:
        typer.echo(f"password of {name}: {change.password}   (also in {Layout(root).password(name)}; not shown again)")


def disable(name: UserArgument, root: DirOption = DEFAULT_DIR) -> None:
    """Shut a user out until `enable`: logins and calls are refused at once. Role, password and bundle stay."""
    change = accounts.disable(root, name)
    tell(change.done)


def enable(name: UserArgument, root: DirOption = DEFAULT_DIR) -> None:
    """Let a user in again that was disabled. It has to log in anew."""
    change = accounts.enable(root, name)
    tell(change.done)


def remove(name: UserArgument, root: DirOption = DEFAULT_DIR) -> None:
    """Remove a user: out of the users file, its certificates revoked, its bundle deleted. Its batches stay."""
    change = accounts.remove(root, name, now=now())
    tell(change.done, change.notes)

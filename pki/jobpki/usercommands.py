"""The commands about users and their tokens: `passwd`, `logout`, `revoke-token`, `disable`, `enable`, `remove`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from jobpki import accounts
from jobpki.errors import PkiError
from jobpki.layout import Layout
from jobpki.options import DEFAULT_DIR, DirOption, PasswordOption, UserArgument, now, read_password, tell
from jobpki.revoking import revoke_tokens


def passwd(name: UserArgument, root: DirOption = DEFAULT_DIR, password_file: PasswordOption = None) -> None:
    """Give a user another password. Its tokens end at once; its certificate stays."""
    change = accounts.set_password(root, name, None if password_file is None else read_password(password_file))
    tell(change.done)
    if change.password is not None:
        typer.echo(f"password of {name}: {change.password}   (also in {Layout(root).password(name)}; not shown again)")


def logout(
    name: UserArgument,
    root: DirOption = DEFAULT_DIR,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only those given out before this time, with its zone: 2027-01-31T08:00:00Z.",
        ),
    ] = None,
) -> None:
    """End the tokens of a user, at once. It may log in again; password and certificate stay."""
    time = None
    if before is not None:
        try:
            time = datetime.fromisoformat(before)
        except ValueError as error:
            raise PkiError(f"{before!r} is not a time as RFC 3339 has it: 2027-01-31T08:00:00Z") from error
        if time.tzinfo is None:
            raise PkiError(f"{before!r} has no time zone: end it with Z for UTC")
    tell(accounts.log_out(root, name, before=time, now=now()).done)


def revoke_token(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Of the tokens, as the service's audit log has them.")
    ],
    root: DirOption = DEFAULT_DIR,
) -> None:
    """End single tokens by their id (`jti`), at once. Their user may log in again.

    An id that begins with - goes behind --.
    """
    tell(f"revoked {token_id}" for token_id in revoke_tokens(root, ids, now=now()))


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

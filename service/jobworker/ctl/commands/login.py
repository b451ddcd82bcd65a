"""`jobctl login`: a token for the user of the certificate, kept for the commands that follow."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError
from jobworker.ctl.options import Form, FormOption
from jobworker.ctl.passwords import PasswordSource
from jobworker.ctl.visible import visible

if TYPE_CHECKING:
    from jobworker.client import Token


def login(
    context: typer.Context,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Default: the name in the certificate.", show_default=False)
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the password; - is standard input. Default: as every command has it, or ask.",
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Log in, and keep the token for the other commands.

    It lies in ~/.cache/jobworker (XDG_CACHE_HOME), readable by you alone.
    """
    shared = Context.of(context)

    async def main() -> None:
        tokens = shared.tokens(user)
        password = _password(tokens.user, shared, password_file)
        async with shared.anonymous() as client:
            token = await client.login(tokens.user, password)
        try:
            tokens.save(token)
        except OSError as error:
            raise CtlError(f"{tokens.path.parent}: the token cannot be kept: {error.strerror}") from error
        from jobworker.ctl.output import local_time, print_data, say

        if output is not Form.TABLE:
            ends = token.expires_at.isoformat()
            print_data({"server": shared.server, "username": tokens.user, "expiresAt": ends}, output)
        else:
            say(f"logged in at {shared.server} as {tokens.user}, until {local_time(_end(token))}")

    return shared.run(main())


def _end(token: "Token") -> datetime:
    """By this machine's clock, which is what its user looks at; and it may be another than the service's."""
    ends = token.expires_at
    if token.given_at is not None:
        ends += datetime.now(UTC) - token.given_at
    return ends


def _password(user: str, shared: Context, file: Path | None) -> str:
    source = shared.password if file is None else PasswordSource(file=file)
    if source:
        return source.read(user=user, server=shared.server)
    if not sys.stdin.isatty():
        raise CtlError("no terminal to ask for the password at: give --password-file or JOBCTL_PASSWORD")
    import getpass

    return getpass.getpass(visible(f"Password of {user} at {shared.server}: "))

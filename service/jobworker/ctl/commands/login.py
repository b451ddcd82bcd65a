"""`jobctl login`: a token for the user of the certificate, kept for the commands that follow."""

import os
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError, complain
from jobworker.ctl.options import Form, FormOption
from jobworker.ctl.visible import visible


def login(
    context: typer.Context,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Default: the name in the certificate.", show_default=False)
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Holds the password; - is standard input. Default: $JOBCTL_PASSWORD, or ask."
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Log in, and keep the token for the other commands.

    It lies in ~/.cache/jobworker (XDG_CACHE_HOME), readable by you alone.
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.certificate import user_of

        name = user or user_of(shared.bundle)
        password = _password(name, shared.server, password_file)
        async with shared.anonymous() as client:
            token = await client.login(name, password)
        shared.tokens(name).save(token)
        if output is Form.JSON:
            from jobworker.ctl.output import print_json

            print_json({"server": shared.server, "username": name, "expiresAt": token.expires_at.isoformat()})
        else:
            until = token.expires_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
            from jobworker.ctl.output import say

            say(f"logged in at {shared.server} as {name}, until {until}")

    return shared.run(main())


def _password(user: str, server: str, file: Path | None) -> str:
    if file is not None:
        try:
            content = sys.stdin.read() if str(file) == "-" else _read(file)
        except (OSError, UnicodeDecodeError) as error:
            raise CtlError(f"{file}: {getattr(error, 'strerror', None) or 'is not text'}") from error
        return content.rstrip("\r\n")
    given = os.environ.get("JOBCTL_PASSWORD")
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise CtlError("no terminal to ask for the password at: give --password-file or JOBCTL_PASSWORD")
    import getpass

    return getpass.getpass(visible(f"Password of {user} at {server}: "))


def _read(path: Path) -> str:
    """Says on stderr when others may read it."""
    from jobworker.client.bundle import exposure

    with path.open() as file:
        found = os.fstat(file.fileno()).st_mode
        exposed = exposure(path, stat.S_IMODE(found), is_secret=True) if stat.S_ISREG(found) else ""
        if exposed:
            complain(exposed)
        return file.read()

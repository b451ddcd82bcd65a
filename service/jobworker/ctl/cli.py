"""`jobctl`: the global options, the verbs, and what a failure looks like. Nothing here imports gRPC."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jobworker.ctl.commands.admin import app as admin_app
from jobworker.ctl.commands.cancel import cancel
from jobworker.ctl.commands.get import get
from jobworker.ctl.commands.login import login
from jobworker.ctl.commands.logout import logout
from jobworker.ctl.commands.logs import logs
from jobworker.ctl.commands.ls import ls
from jobworker.ctl.commands.run import run
from jobworker.ctl.commands.submit import submit
from jobworker.ctl.commands.trace import trace
from jobworker.ctl.commands.wait import wait
from jobworker.ctl.commands.whoami import whoami
from jobworker.ctl.context import DEFAULT_SERVER, Context, cache_folder, default_bundle, given_password
from jobworker.ctl.exits import EXITS_HELP, CtlError, Exit, complain
from jobworker.ctl.passwords import PasswordSource
from jobworker.ctl.visible import visible

app = typer.Typer(
    help="Submit batches of commands to a jobworker service, follow them live and read their results.",
    epilog=EXITS_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"jobctl {version('jobworker')}")
        raise typer.Exit


@app.callback()
def _options(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    server: Annotated[
        str, typer.Option("--server", "-S", metavar="HOST:PORT", envvar="JOBCTL_SERVER", help="The service.")
    ] = DEFAULT_SERVER,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            "-B",
            metavar="FOLDER",
            envvar="JOBCTL_BUNDLE",
            help="Your ca.crt, tls.crt and tls.key. Default: var/pki/clients/admin, or ~/.config/jobworker/bundle.",
            show_default=False,
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            envvar="JOBCTL_PASSWORD_FILE",
            help="Holds your password: each command logs in by itself when it has to.",
            show_default=False,
        ),
    ] = None,
    password_command: Annotated[
        str | None,
        typer.Option(
            "--password-command",
            metavar="COMMAND",
            envvar="JOBCTL_PASSWORD_COMMAND",
            help="Prints your password, likewise; run without a shell, with JOBCTL_USER and JOBCTL_SERVER.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if str(password_file) == "-":
        raise typer.BadParameter("- is for: jobctl login --password-file -", param_hint="--password-file")
    context.obj = Context(
        server=server,
        bundle=bundle or default_bundle(),
        cache=cache_folder(),
        password=PasswordSource(file=password_file, command=password_command, text=given_password()),
    )


# Options end where the user's own command begins: `jobctl run ls -l`.
_TAKES_A_COMMAND = {"allow_interspersed_args": False}

app.command()(login)
app.command()(logout)
app.command()(whoami)
app.command(context_settings=_TAKES_A_COMMAND)(submit)
app.command(context_settings=_TAKES_A_COMMAND)(run)
app.command()(get)
app.command()(logs)
app.command()(wait)
app.command()(cancel)
app.command()(ls)
app.command()(trace)
app.add_typer(admin_app, name="admin")


def main() -> None:
    """Entry point."""
    # gRPC reads these when it is imported: its own messages are not for users, and nothing here forks without exec.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    sys.exit(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Runs one command line; its exit code. A failure is one line on stderr."""
    try:
        code = app(list(arguments), prog_name="jobctl", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except CtlError as error:
        return _say(str(error), error.exit_code)
    except Exception as error:
        return _bug(error)
    return code if isinstance(code, int) else Exit.OK


def _usage(error: typer.TyperException) -> int:
    message = error.format_message()
    if message.count("\n") > 2:  # no arguments at all: it is the help
        sys.stderr.write("\n".join(map(visible, message.split("\n"))) + "\n")
    else:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "jobctl"
        _say(f"{' '.join(message.split()).rstrip('.')} - see: {command} --help", Exit.USAGE)
    return Exit.USAGE


def _bug(error: Exception) -> int:
    if os.environ.get("JOBCTL_DEBUG"):
        raise error
    return _say(f"a bug: {type(error).__name__}: {error} (JOBCTL_DEBUG=1 shows where)", Exit.BUG)


def _say(words: str, code: int) -> int:
    complain(words)
    return code


if __name__ == "__main__":
    main()

"""`jobworker`: the operators' command. Each verb imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

# sysexits(3): the configuration is at fault, and starting again would not help.
EX_CONFIG = 78
# What the service makes is its own user's, whatever umask it is started with. What others are to reach (the executor's
# socket, certificates) gets its mode by name; jobs have a umask of their own.
_UMASK = 0o077

app = typer.Typer(
    help="A job worker service: batches of Linux commands over gRPC with mutual TLS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

config_app = typer.Typer(help="Check, show and document the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

metrics_app = typer.Typer(help="Document the metrics.", no_args_is_help=True)
app.add_typer(metrics_app, name="metrics")

audit_app = typer.Typer(help="Check the audit log.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="JOBWORKER_CONFIG", help="A TOML file with settings; none: the defaults."),
]


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@app.command()
def run(
    config: ConfigFile = None,
    allow_root_jobs: Annotated[
        bool,
        typer.Option(
            "--allow-root-jobs",
            envvar="JOBWORKER_ALLOW_ROOT_JOBS",
            help="Where root runs this, run jobs as root too, without capabilities; else they run as jobs.user.",
        ),
    ] = False,
) -> None:
    """Run everything on this machine: PKI if there is none, executor, server. Ctrl-C ends it."""
    from jobworker import supervisor

    os.umask(_UMASK)
    raise SystemExit(supervisor.run(config_file=config, allow_root_jobs=allow_root_jobs))


@app.command()
def server(
    config: ConfigFile = None,
    executor_fd: Annotated[
        int | None,
        typer.Option(
            help="The socket to the executor, inherited (SOCK_SEQPACKET). "
            "None: the server listens at the key executor.socket, or takes descriptor 3."
        ),
    ] = None,
    kept_config: Annotated[
        Path | None,
        typer.Option(help="Where the last good content of --config is kept while the service runs."),
    ] = None,
    folder_fds: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=FD,...",
            help="Descriptors of the folders in paths (data, logs, pki, run), inherited. "
            "A folder without one is opened by its name, once.",
        ),
    ] = None,
    shared_ports: Annotated[
        bool,
        typer.Option(help="Whoever started this holds its ports, by sockets of the same user with SO_REUSEPORT."),
    ] = False,
) -> None:
    """Run the server alone: it listens for its executor, or the socket to it is handed down (`jobworker run`)."""
    from jobworker.relay import open_standard, print_error

    open_standard()
    from jobworker.server import app as application
    from jobworker.server.config.sources import ConfigError
    from jobworker.server.reach import StartError

    os.umask(_UMASK)
    try:
        code = application.main(
            config_file=config,
            kept_config=kept_config,
            executor_fd=executor_fd,
            folder_fds=_descriptors(folder_fds or ""),
            shared_ports=shared_ports,
        )
    except (ConfigError, StartError) as e:
        print_error(str(e))
        raise SystemExit(EX_CONFIG) from None
    raise SystemExit(code)


def _descriptors(text: str) -> dict[str, int]:
    found = [part.partition("=") for part in text.split(",") if part]
    if not all(number.isascii() and number.isdigit() for _, _, number in found):
        raise typer.BadParameter("is not of the form data=5,logs=6", param_hint="--folder-fds")
    return {key: int(number) for key, _, number in found}


@app.command()
def drain(
    config: ConfigFile = None,
    seconds: Annotated[float, typer.Option(min=0, help="What running jobs may take; then they are interrupted.")] = 600,
) -> None:
    """Have this machine's server take no more work, since it is about to end; returns when no job runs. Until it ends,
    or `jobctl admin start`; its successor takes work again. Of no use before the server alone is restarted: jobs live
    through that."""
    from jobworker.server.config.sources import ConfigError, load
    from jobworker.server.control import ControlError, ask_drain

    try:
        interrupted = ask_drain(load(config, os.environ).settings.paths.run, seconds=seconds)
    except (ConfigError, ControlError) as e:
        print(f"jobworker: {e}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"drained; {interrupted} jobs were interrupted")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def executor(context: typer.Context) -> None:
    """Run the executor alone; its own --help tells the options."""
    # Afresh, without this process's modules: it stays small, and its jobs' first pages with it.
    import jobworker.executor

    package = Path(jobworker.executor.__file__).parent
    start = f"import sys; sys.path.insert(0, {str(package.parent)!r}); from executor.main import main; sys.exit(main())"
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", start, *context.args])  # noqa: S606


@app.command()
def healthcheck(  # noqa: PLR0917 - typer passes options by name
    config: ConfigFile = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The gRPC address. None: this machine's, from grpc.port.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="ca.crt, tls.crt and tls.key. None: health/ in paths.pki."),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name in the server's certificate, where it is not the address's."),
    ] = None,
    service: Annotated[str, typer.Option(help="Of that gRPC service alone; empty: of the server as a whole.")] = "",
    http: Annotated[str | None, typer.Option(metavar="URL", help="Ask this URL instead: 200 is healthy.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 5.0,
) -> None:
    """Ask the server for its health, over mutual TLS; exits 0 when it serves, else 1 with the reason."""
    from jobworker.server import healthcheck as health

    try:
        if http is not None:
            answer = health.ask_http(http, timeout_seconds=timeout)
        else:
            target = health.target(
                config_file=config, environment=os.environ, address=address, bundle=bundle, server_name=server_name
            )
            answer = health.ask_grpc(target, service=service, timeout_seconds=timeout)
    except health.UnhealthyError as e:
        print(f"unhealthy: {e}", file=sys.stderr)
        raise SystemExit(1) from None
    print(answer)


@app.command()
def fsck(
    config: ConfigFile = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The data folder. None: paths.data of the configuration.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is safe: what loses nothing that was acknowledged.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")] = Output.TABLE,
) -> None:
    """Look through a data folder while no server runs on it. Status as of fsck(8): 0 nothing is wrong, 1 all that was
    is repaired, 4 something is left, 8 it could not be done."""
    from jobworker.server.config.sources import ConfigError, load
    from jobworker.server.fsck import run as look

    try:
        folder = data or load(config, os.environ).settings.paths.data
    except ConfigError as e:
        typer.echo(f"jobworker: {e}", err=True)
        raise SystemExit(8) from None
    raise SystemExit(look(folder, repair=repair, as_json=output is Output.JSON))


@config_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file, or - for standard input.")],
    environment: Annotated[
        bool, typer.Option("--environment/--no-environment", help="Together with this shell's JOBWORKER_* variables.")
    ] = True,
) -> None:
    """Say what is wrong with a configuration file: a line each, with file, line and key. Exits 0 when nothing is."""
    from jobworker.server.config import commands

    raise SystemExit(commands.check(file, os.environ if environment else {}))


@config_app.command()
def show(
    config: ConfigFile = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")] = Output.TABLE,
) -> None:
    """Print each key's value and where it comes from: default, file, environment or update.

    It is what a service that starts now would have; `jobctl admin config show` asks a running one.
    """
    from jobworker.server.config import commands

    raise SystemExit(commands.show(config, os.environ, as_json=output is Output.JSON))


@config_app.command()
def docs() -> None:
    """Print the table of all keys, in Markdown."""
    from jobworker.server.config.docs import markdown

    print(markdown())


@audit_app.command("verify")
def audit_verify(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER|FILE]...",
            help="Folders with an audit.jsonl, or files, rotated ones too. None: paths.logs of the configuration, and "
            "paths.pki where jobpki has written one.",
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Check that no line of an audit log was changed, removed, inserted or moved since it was written. Exits 0 when all
    is well, 1 with a line for each place where it is not, 2 when there is nothing to read."""
    from jobpki.auditfile import NAME
    from jobpki.auditverify import files_of, summary, verify
    from jobworker.server.config.sources import ConfigError, load

    try:
        if not places:
            paths = load(config, os.environ).settings.paths
            places = [paths.logs, *([paths.pki] if (paths.pki / NAME).exists() else [])]
        found = [(files[-1], verify(files)) for files in files_of(places)]
    except (ConfigError, OSError) as e:
        typer.echo(f"jobworker: {e}", err=True)
        raise SystemExit(2) from None
    for path, log in found:
        for note in log.notes:
            typer.echo(f"note: {note}")
        for fault in log.faults:
            typer.echo(fault, err=True)
        typer.echo(f"{path}: {summary(log)}")
    raise SystemExit(1 if any(log.faults for _, log in found) else 0)


@metrics_app.command("docs")
def metrics_docs() -> None:
    """Print the table of all metrics, in Markdown."""
    from jobworker.server.telemetry.docs import markdown

    print(markdown())


def main() -> None:
    """Entry point."""
    try:
        app()
    except ModuleNotFoundError as e:
        if (e.name or "jobworker").partition(".")[0] in ("jobworker", "jobpki"):
            raise
        # The base install is the client's.
        print(f"jobworker: {e.name} is missing; install it with: pip install 'jobworker[server]'", file=sys.stderr)
        raise SystemExit(EX_CONFIG) from None


if __name__ == "__main__":
    main()

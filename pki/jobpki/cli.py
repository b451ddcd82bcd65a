"""`jobpki`: the command line of the PKI folder. The one place here that reads the clock and prints."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jobpki import directory
from jobpki.completion import InitResult
from jobpki.errors import PkiError
from jobpki.layout import Layout
from jobpki.overview import Entry, overview
from jobpki.passwords import PASSWORD_BYTES_MAX
from jobpki.profiles import ADMIN, DEFAULT_TRUST_DOMAIN, Lifetimes
from jobpki.users import Role

app = typer.Typer(
    help="The certificate authority, users and client bundles of a jobworker service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Output(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


DirOption = Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="The PKI folder.")]
CertificatesOption = Annotated[
    bool,
    typer.Option(
        "--certificates/--no-certificates",
        help="Whether certificates are made here. Without: another authority issues them, and only the token key, "
        "users and passwords are made.",
    ),
]
DEFAULT_DIR = Path("var/pki")
_DEFAULT_DAYS = Lifetimes()


def main() -> None:
    """Runs the command; a PkiError is one line on stderr and exit status 1."""
    try:
        app()
    except PkiError as error:
        sys.stderr.write(f"jobpki: {error}\n")
        sys.exit(1)


@app.command()
def init(  # noqa: PLR0917 - typer passes options by name
    root: DirOption = DEFAULT_DIR,
    san: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_IP",
            help="A name or address of the server; may be repeated. "
            "None: localhost, the host's name and the loopback addresses.",
        ),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ROLE]",
            help=f"A user beside {ADMIN!r}; may be repeated. ROLE is viewer, operator (as without) or admin.",
        ),
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The SPIFFE trust domain. [default: {DEFAULT_TRUST_DOMAIN}]")
    ] = None,
    ca_days: Annotated[
        int, typer.Option(min=1, max=36500, help="Lifetime of the authority.")
    ] = _DEFAULT_DAYS.authority.days,
    server_days: Annotated[
        int, typer.Option(min=1, max=36500, help="Lifetime of the server's certificate.")
    ] = _DEFAULT_DAYS.server.days,
    client_days: Annotated[
        int, typer.Option(min=1, max=36500, help="Lifetime of client certificates.")
    ] = _DEFAULT_DAYS.client.days,
    certificates: CertificatesOption = True,
) -> None:
    """Make a PKI, or what is missing of one. What is there stays as it is."""
    result = directory.initialise(
        root,
        now=datetime.now(UTC),
        sans=san or None,
        users=dict(_user_option(text) for text in user or []),
        trust_domain=trust_domain,
        lifetimes=Lifetimes(
            authority=timedelta(days=ca_days), server=timedelta(days=server_days), client=timedelta(days=client_days)
        ),
        certificates=certificates,
    )
    _tell(root, result)


@app.command()
def issue(  # noqa: PLR0917 - typer passes options by name
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="viewer, operator or admin.")],
    root: DirOption = DEFAULT_DIR,
    password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The password, from a file or - for standard input. Without: one is made for a new user.",
        ),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=36500, help="Lifetime of the certificate.")
    ] = _DEFAULT_DAYS.client.days,
    certificates: CertificatesOption = True,
) -> None:
    """Add a user with a certificate bundle, or change the role or password of one."""
    result = directory.issue(
        root,
        name,
        role=Role.parse(role),
        now=datetime.now(UTC),
        password=None if password_file is None else _read_password(password_file),
        lifetimes=Lifetimes(client=timedelta(days=days)),
        certificates=certificates,
    )
    _tell(root, result)


@app.command("list")
def list_(
    root: DirOption = DEFAULT_DIR,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print it.")] = Output.TEXT,
) -> None:
    """Show the certificates, when they expire, and the users; and check every file.

    Exits 1 when a file is damaged, or others may read or change it; says which, and what to do.
    """
    entries = overview(root)
    problems = [entry for entry in entries if entry.kind == "file"]
    if output is Output.JSON:
        typer.echo(json.dumps([_entry_json(entry) for entry in entries], indent=2))
        raise typer.Exit(1 if problems else 0)
    now = datetime.now(UTC)
    listed = [entry for entry in entries if entry.kind != "file"]
    rows = [("KIND", "NAME", "ROLE", "EXPIRES", "SERIAL"), *(_entry_row(entry, now) for entry in listed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for entry in problems:
        typer.echo(f"jobpki: {entry.problem}", err=True)
    raise typer.Exit(1 if problems else 0)


def _user_option(text: str) -> tuple[str, Role]:
    name, colon, role = text.partition(":")
    return name, Role.parse(role) if colon else Role.OPERATOR


def _read_password(source: str) -> str:
    path = Path("/dev/stdin" if source == "-" else source)
    try:
        with path.open("rb") as file:
            content = file.read(PASSWORD_BYTES_MAX + 3)
        return content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise PkiError(f"cannot be read ({error.strerror})", path=path) from error
    except UnicodeDecodeError as error:
        raise PkiError("is not UTF-8", path=path) from error


def _tell(root: Path, result: InitResult) -> None:
    for path in result.made:
        typer.echo(f"wrote {path}")
    for note in result.notes:
        typer.echo(f"note: {note}")
    for name, password in result.passwords.items():
        typer.echo(f"password of {name}: {password}   (also in {Layout(root).password(name)}; not shown again)")
    if not result.made:
        domain = f" (trust domain {result.trust_domain})" if result.trust_domain else ""
        typer.echo(f"{root} is complete{domain}: nothing to do")


def _expiry(entry: Entry, now: datetime) -> str:
    if entry.problem:
        return entry.problem
    if entry.not_after is None:
        return "no bundle here"
    days = (entry.not_after - now) // timedelta(days=1)
    return f"{entry.not_after:%Y-%m-%d %H:%M} " + (f"({days} days)" if days >= 0 else "(EXPIRED)")


def _entry_row(entry: Entry, now: datetime) -> tuple[str, str, str, str, str]:
    role = "-" if entry.role is None else str(entry.role)
    serial = "-" if entry.serial is None else f"{entry.serial:x}"
    return entry.kind, entry.name, role, _expiry(entry, now), serial


def _entry_json(entry: Entry) -> dict[str, str | None]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "role": None if entry.role is None else str(entry.role),
        "path": None if entry.path is None else str(entry.path),
        "serial": None if entry.serial is None else f"{entry.serial:x}",
        "not_after": None if entry.not_after is None else entry.not_after.isoformat(),
        "problem": entry.problem or None,
    }


if __name__ == "__main__":
    main()

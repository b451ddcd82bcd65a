"""`jobpki`: the command line of the PKI folder. What it does is done elsewhere."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from jobpki import certcommands, directory, usercommands
from jobpki.errors import PkiError
from jobpki.layout import Layout
from jobpki.options import DAYS_MAX, DEFAULT_DIR, DirOption, Output, OutputOption, UserArgument, now, read_password
from jobpki.overview import Entry, overview
from jobpki.profiles import ADMIN, DEFAULT_TRUST_DOMAIN, Lifetimes
from jobpki.provisioner import InitResult
from jobpki.users import Role
from jobpki.verify import Verification

app = typer.Typer(
    help="The certificate authority, users and client bundles of a jobworker service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


CertificatesOption = Annotated[
    bool,
    typer.Option(
        "--certificates/--no-certificates",
        help="Whether certificates are made here. Without: another authority issues them, and only the token key, "
        "users and passwords are made.",
    ),
]
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
            help=f"A user beside {ADMIN!r}; may be repeated. ROLE as of `issue`; without it, operator.",
        ),
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The SPIFFE trust domain. [default: {DEFAULT_TRUST_DOMAIN}]")
    ] = None,
    ca_days: Annotated[
        int, typer.Option(min=1, max=DAYS_MAX, help="Lifetime of the authority.")
    ] = _DEFAULT_DAYS.authority.days,
    server_days: Annotated[
        int, typer.Option(min=1, max=DAYS_MAX, help="Lifetime of the server's certificate.")
    ] = _DEFAULT_DAYS.server.days,
    client_days: Annotated[
        int, typer.Option(min=1, max=DAYS_MAX, help="Lifetime of client certificates.")
    ] = _DEFAULT_DAYS.client.days,
    certificates: CertificatesOption = True,
) -> None:
    """Make a PKI, or what is missing of one. What is there stays as it is."""
    result = directory.initialise(
        root,
        now=now(),
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
    name: UserArgument,
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="viewer, operator, admin, or one of auth.roles. [default: as it is; of a new user: operator]",
        ),
    ] = None,
    root: DirOption = DEFAULT_DIR,
    password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The password, from a file or - for standard input. Without: one is made for a new user.",
        ),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=DAYS_MAX, help="Lifetime of the certificate, if one is issued.")
    ] = _DEFAULT_DAYS.client.days,
    certificates: CertificatesOption = True,
) -> None:
    """Add a user with a certificate bundle, or change the role or password of one.

    A bundle that is there stays as it is; what is missing of it is made, and one that is revoked is issued anew, with
    another key.
    """
    result = directory.issue(
        root,
        name,
        role=None if role is None else Role.parse(role),
        now=now(),
        password=None if password_file is None else read_password(password_file),
        lifetimes=Lifetimes(client=timedelta(days=days)),
        certificates=certificates,
    )
    _tell(root, result)


@app.command("list")
def list_(root: DirOption = DEFAULT_DIR, output: OutputOption = Output.TEXT) -> None:
    """Show the certificates, when they expire, and the users; and check every file.

    `earlier` is a certificate that is still valid but in no bundle here any more. Exits 1 when a file is damaged, or
    others may read or change it; says which, and what to do. `verify` checks more.
    """
    time = now()
    entries = overview(root, now=time)
    problems = [entry for entry in entries if entry.kind == "file"]
    if output is Output.JSON:
        typer.echo(json.dumps([_entry_json(entry, time) for entry in entries], indent=2))
        raise typer.Exit(1 if problems else 0)
    listed = [entry for entry in entries if entry.kind != "file"]
    rows = [("KIND", "NAME", "ROLE", "STATE", "EXPIRES", "SERIAL"), *(_entry_row(entry, time) for entry in listed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for entry in problems:
        typer.echo(f"jobpki: {entry.problem}", err=True)
    raise typer.Exit(1 if problems else 0)


@app.command("verify")
def verify_(root: DirOption = DEFAULT_DIR, output: OutputOption = Output.TEXT) -> None:
    """Check everything that could be wrong: modes, owners, keys, chains, names, times, users, the clock.

    Exits 1 when something is, with a line for each that says what to do. Warnings alone are not failures.
    """
    found = Verification(root, now=now())
    if output is Output.JSON:
        typer.echo(
            json.dumps({"faults": _problems_json(found.faults), "warnings": _problems_json(found.warnings)}, indent=2)
        )
    else:
        for warning in found.warnings:
            typer.echo(f"warning: {warning}")
        for fault in found.faults:
            typer.echo(f"jobpki: {fault}", err=True)
        if not found.faults:
            typer.echo(f"{root}: no fault")
    raise typer.Exit(1 if found.faults else 0)


def _user_option(text: str) -> tuple[str, Role]:
    name, colon, role = text.partition(":")
    return name, Role.parse(role) if colon else Role.OPERATOR


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


def _expiry(entry: Entry, time: datetime) -> str:
    if entry.problem:
        return entry.problem
    days = _days_left(entry, time)
    if entry.not_after is None or days is None:
        return "no bundle here"
    return f"{entry.not_after:%Y-%m-%d %H:%M} " + (f"({days} days)" if days >= 0 else "(EXPIRED)")


def _days_left(entry: Entry, time: datetime) -> int | None:
    return None if entry.not_after is None else (entry.not_after - time) // timedelta(days=1)


def _state(entry: Entry) -> str:
    words = [word for word, holds in (("disabled", entry.is_disabled), ("revoked", entry.is_revoked)) if holds]
    return ",".join(words)


def _entry_row(entry: Entry, time: datetime) -> tuple[str, ...]:
    role = "-" if entry.role is None else str(entry.role)
    serial = "-" if entry.serial is None else f"{entry.serial:x}"
    return entry.kind, entry.name, role, _state(entry) or "-", _expiry(entry, time), serial


def _entry_json(entry: Entry, time: datetime) -> dict[str, str | int | bool | None]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "role": None if entry.role is None else str(entry.role),
        "path": None if entry.path is None else str(entry.path),
        "serial": None if entry.serial is None else f"{entry.serial:x}",
        "not_after": None if entry.not_after is None else entry.not_after.isoformat(),
        "days_left": _days_left(entry, time),
        "disabled": entry.is_disabled,
        "revoked": entry.is_revoked,
        "problem": entry.problem or None,
    }


def _problems_json(problems: list[PkiError]) -> list[dict[str, str | None]]:
    return [
        {"path": None if one.path is None else str(one.path), "problem": one.problem, "mend": one.mend or None}
        for one in problems
    ]


for _command in (
    usercommands.passwd,
    usercommands.logout,
    usercommands.revoke_token,
    usercommands.disable,
    usercommands.enable,
    usercommands.remove,
    certcommands.renew,
    certcommands.revoke,
    certcommands.rotate_ca,
    certcommands.rotate_token_key,
    certcommands.export,
):
    app.command()(_command)

if __name__ == "__main__":
    main()

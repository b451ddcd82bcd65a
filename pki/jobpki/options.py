"""What the commands of `jobpki` have in common: options, times, and how what was done is printed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jobpki.errors import PkiError
from jobpki.passwords import PASSWORD_BYTES_MAX

DEFAULT_DIR = Path("var/pki")
DAYS_MAX = 36500


class Output(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


DirOption = Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="The PKI folder.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print it.")]
UserArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user.")]
PasswordOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The password, from a file or - for standard input. Without: one is made, and left in the bundle.",
    ),
]


def now() -> datetime:
    """The time, as certificates have it."""
    return datetime.now(UTC)


def read_password(source: str) -> str:
    """A password from a file, or `-` for standard input, without its line's end.

    Raises:
        PkiError: it cannot be read.
    """
    path = Path("/dev/stdin" if source == "-" else source)
    try:
        with path.open("rb") as file:
            content = file.read(PASSWORD_BYTES_MAX + 3)
        return content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise PkiError(f"cannot be read ({error.strerror})", path=path) from error
    except UnicodeDecodeError as error:
        raise PkiError("is not UTF-8", path=path) from error


def tell(done: Iterable[str], notes: Iterable[str] = ()) -> None:
    """Prints what was done, a line each, and remarks; that there was nothing to do, where there was not."""
    lines = list(done)
    for line in lines or ["nothing to do"]:
        typer.echo(line)
    for note in notes:
        typer.echo(f"note: {note}")

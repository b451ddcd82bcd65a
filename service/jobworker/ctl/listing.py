"""A list of things of one kind, in each of the forms that -o can ask for. It prints by `output.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from jobworker.ctl.exits import CtlError
from jobworker.ctl.options import ListForm
from jobworker.ctl.output import print_data, print_lines, print_table
from jobworker.ctl.tables import Column, Styled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobworker.ctl.tables import Cell

T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """A column, and its cell of each thing. `wide`: only where -o wide or --columns asks for it."""

    column: Column
    cell: Callable[[T], Cell]
    wide: bool = False


@dataclass(frozen=True)
class Shown:
    """The options: -o, --columns, -q and --no-headers."""

    form: ListForm = ListForm.TABLE
    columns: str | None = None
    quiet: bool = False
    no_headers: bool = False

    def __post_init__(self) -> None:
        if self.quiet:
            if self.form is not ListForm.TABLE or self.columns is not None:
                raise CtlError("-q cannot be given together with -o or --columns")
            object.__setattr__(self, "form", ListForm.NAME)
        elif self.columns is not None and self.form not in (ListForm.TABLE, ListForm.WIDE):
            raise CtlError(f"--columns is for tables, not for -o {self.form.value}")

    @property
    def is_table(self) -> bool:
        """Whether it is for people."""
        return self.form in (ListForm.TABLE, ListForm.WIDE)

    def fields(self, all_fields: Sequence[Field[T]]) -> list[Field[T]]:
        """Those to show, in the order that was asked for.

        Raises:
            CtlError: --columns names another, or none.
        """
        if self.columns is None:
            return [field for field in all_fields if self.form is ListForm.WIDE or not field.wide]
        known = {_key(field.column.title): field for field in all_fields}
        wanted = [_key(name) for name in self.columns.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            words = f"no column {unknown[0]}" if unknown else "names no column"
            raise CtlError(f"--columns: {words}; there are: {','.join(known)}")
        return [known[name] for name in wanted]


class Listing(Generic[T]):
    """Prints things one by one or all at once, as the form allows: a table needs all widths first."""

    def __init__(
        self,
        fields: Sequence[Field[T]],
        shown: Shown,
        *,
        name: Callable[[T], str],
        data: Callable[[T], dict[str, object]],
    ) -> None:
        """`name`: what other commands take to mean the thing. `data`: it as JSON has it.

        Raises:
            CtlError: there is no such column.
        """
        self._fields = shown.fields(fields)
        self._shown = shown
        self._name = name
        self._data = data
        self._rows: list[list[Cell]] = []

    def add(self, thing: T) -> None:
        """Shows it now, or with the table."""
        form = self._shown.form
        if self._shown.is_table:
            self._rows.append([field.cell(thing) for field in self._fields])
        elif form is ListForm.NAME:
            print_lines([self._name(thing)])
        else:
            print_data(self._data(thing), form, several=True)

    def end(self) -> None:
        """Shows the table, if that is the form."""
        if self._shown.is_table:
            columns = [field.column for field in self._fields]
            whole = self._shown.form is ListForm.WIDE
            print_table(columns, self._rows, header=not self._shown.no_headers, whole=whole)


def _key(title: str) -> str:
    return title.strip().lower().replace(" ", "-").replace("_", "-")


STATE_STYLES = {
    "QUEUED": "dim",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "TIMED_OUT": "red",
    "LOST": "magenta",
    "SKIPPED": "dim",
}


def styled(result: str) -> Styled:
    """A state, or a result that begins with one, in its colour."""
    return Styled(result, STATE_STYLES.get(result.partition(" ")[0], ""))

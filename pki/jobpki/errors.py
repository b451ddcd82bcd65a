"""The one error that this package raises for people to see: a file, what is wrong with it, and what to do."""

from __future__ import annotations

from pathlib import Path


class PkiError(Exception):
    """Something in the PKI folder is not as it must be, or a request cannot be met. `str(error)` is one line.

    `path` is the file or folder it is about; None where a name or an option is wrong, not a file. `mend` is what to do
    about it, `run: COMMAND` as a rule; empty where the problem says enough.
    """

    def __init__(self, problem: str, *, path: Path | None = None, mend: str = "") -> None:
        text = problem if path is None else f"{path}: {problem}"
        super().__init__(f"{text} - {mend}" if mend else text)
        self.path = path
        self.problem = problem
        self.mend = mend


class OutOfTimeError(PkiError):
    """A certificate has expired."""

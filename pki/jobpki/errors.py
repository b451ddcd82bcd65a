"""The one error that this package raises for people to see: a file, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path


class PkiError(Exception):
    """Something in the PKI folder is not as it must be, or a request cannot be met. `str(error)` is one line.

    `path` is the file or folder it is about; None where a name or an option is wrong, not a file.
    """

    def __init__(self, problem: str, *, path: Path | None = None) -> None:
        super().__init__(problem if path is None else f"{path}: {problem}")
        self.path = path

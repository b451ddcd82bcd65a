"""A PKI folder, opened to be changed: by one writer at a time, and after what a crash left was put right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobpki import publish
from jobpki.access import check_folder
from jobpki.errors import PkiError
from jobpki.examine import demand
from jobpki.issuing import subjects
from jobpki.layout import ROOT_MODE, Layout


def exists(root: Path) -> bool:
    """Whether there is a PKI in a folder, complete or not."""
    layout = Layout(root)
    return layout.ca.exists() or layout.server.exists() or layout.auth.exists()


@contextmanager
def opened(root: Path, *, made: bool = True) -> Iterator[Layout]:
    """The folder under its lock, without what a crash left half made, and found to be safe and undamaged.

    Args:
        root: the folder.
        made: whether it is made where there is none.

    Raises:
        PkiError: there is none, a file is damaged or open to others, or something cannot be written.
    """
    layout = Layout(root)
    if not made and not exists(root):
        raise PkiError("holds no PKI yet: `jobpki init` makes one", path=root)
    try:
        publish.make_folders(root, mode=ROOT_MODE)
        check_folder(root)  # before anything is written into it
        with publish.locked(layout.lock):
            for folder in parts(layout):
                publish.clear_leftovers(folder)
            demand(layout)
            yield layout
    except OSError as error:
        path = Path(error.filename) if isinstance(error.filename, str) else root
        raise PkiError(f"cannot be written ({error.strerror or error})", path=path) from error


def parts(layout: Layout) -> list[Path]:
    """The folders of it in which files are put, the outer ones first."""
    bundles = (subject.folder for subject in subjects(layout) if subject.is_ours)
    return [layout.root, layout.clients, layout.auth, layout.ca, *bundles]

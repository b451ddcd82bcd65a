"""Progress on a terminal's stderr; elsewhere nothing at all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from jobworker.ctl.output import counts_in_words, done_count

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress

    from jobworker.v1.job_pb2 import Batch


def at_terminal() -> bool:
    """Whether somebody sees it."""
    return sys.stderr.isatty()


class Progress:
    """`with Progress() as progress`: a line that is gone afterwards."""

    def __init__(self) -> None:
        self._progress: RichProgress | None = None
        if at_terminal():
            from rich import progress as rich_progress
            from rich.console import Console

            self._progress = rich_progress.Progress(
                rich_progress.SpinnerColumn(),
                rich_progress.BarColumn(),
                rich_progress.TextColumn("{task.description}"),
                rich_progress.TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def sent(self, count: int) -> None:
        """So many jobs of a batch went out."""
        if self._progress is not None:
            self._progress.update(self._task, description=f"{count} jobs sent", refresh=False)

    def batch(self, batch: Batch) -> None:
        """How far a batch is."""
        if self._progress is not None:
            words = counts_in_words(batch)
            self._progress.update(
                self._task, total=batch.job_count, completed=done_count(batch), description=words, refresh=False
            )

"""`jobworker fsck`: looks through a data folder that no server has, and repairs what is safe to repair: what loses
nothing that was acknowledged. Reads everything, so it takes as long as there is stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobworker.server.errors import UNREADABLE, DamagedError, InvalidRequestError
from jobworker.server.model import TransitionError
from jobworker.server.store import results
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.committed import CommittedBatches
from jobworker.server.store.layout import RESULTS, Layout
from jobworker.server.store.replay import apply_line, read_batch

_ERRORS = (DamagedError, InvalidRequestError, OSError, *UNREADABLE, TransitionError)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be; `repair` says what can be done about it, empty: nothing safe."""

    path: str
    what: str
    repair: str = ""
    repaired: bool = False


@dataclass(slots=True)
class Checked:
    """What was looked at, and what was found."""

    batches: int = 0
    unfinished: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def status(self) -> int:
        """As fsck(8) has it: 0 nothing was wrong, 1 all of it was repaired, 4 something is left."""
        if not self.problems:
            return 0
        return 1 if all(problem.repaired for problem in self.problems) else 4


class Fsck:
    """One look through a data folder, whose lock is held."""

    def __init__(self, layout: Layout, *, repair: bool, progress: Callable[[int], object] = lambda _: None) -> None:
        """`progress` is told how many batches were looked at, after each.

        Raises:
            DamagedError: the commit log is of a newer version.
        """
        self._layout = layout
        self._repair = repair
        self._progress = progress
        self._found = Checked()
        self._log = CommittedBatches(layout, self._tell)

    def run(self) -> Checked:
        """Looks through everything."""
        for name in sorted(os.listdir(self._layout.active_root)):
            self._unfinished(f"{self._layout.active_root}/{name}")
        for folder in self._layout.finished_folders():
            self._finished(folder)
        for place in sorted(os.listdir(self._layout.damaged_root)):
            self._tell(f"{self._layout.damaged_root}/{place}", "was set aside as damaged")
        return self._found

    def _tell(self, path: str, what: str, repair: str = "", do: Callable[[], object] | None = None) -> None:
        repaired = False
        if self._repair and do is not None:
            do()
            repaired = True
        self._found.problems.append(Problem(path, what, repair, repaired))

    # -- batches

    def _unfinished(self, folder: str) -> None:
        self._found.unfinished += 1
        name = os.path.basename(folder)
        logged = self._log.batches.get(name)
        if self._log.boot is not None and logged is None:
            if self._log.damaged or os.path.exists(f"{folder}/{RESULTS}"):
                self._tell(folder, "the commit log knows nothing of it; the next start sets it aside")
            else:
                self._tell(folder, "was never accepted", "remove it", lambda: self._layout.discard(folder))
        elif logged is None or logged.accept is None or not logged.accept.content:
            self._read(folder)  # of the others the files are made from the log at the next start
        self._passed()

    def _finished(self, folder: str) -> None:
        batch = self._read(folder)
        if batch is not None and os.path.basename(folder) not in self._log.batches:
            self._whole(folder, batch)
        self._passed()

    def _passed(self) -> None:
        self._found.batches += 1
        self._progress(self._found.batches)

    def _read(self, folder: str) -> ActiveBatch | None:
        """The batch of a folder, as far as its lines can be read."""
        path = f"{folder}/{RESULTS}"
        try:
            batch = read_batch(folder)
            for index in range(batch.job_count):
                batch.reader.spec(index)
            batch.close()
            for at, line in results.read_lines(path, lambda at, _: self._tell(path, f"a damaged line at byte {at}")):
                apply_line(batch, line, at, self._tell)
        except _ERRORS as e:
            self._tell(folder, f"cannot be read: {e}")
            return None
        return batch

    def _whole(self, folder: str, batch: ActiveBatch) -> None:
        """A finished batch has an end of each job, a closing line, and logs as long as the ends say."""
        path = f"{folder}/{RESULTS}"
        if not batch.recorded.complete:
            self._tell(path, f"{batch.recorded.open_count} jobs have no end")
            return
        batch.visible = batch.recorded
        closing = batch.close_results(folder)
        end = _end_of_last_end(path)
        # Those of versions before do not tell what the logs take.
        before = results.final_line(batch.counts(), batch.started_at, batch.ended_at)
        if Path(path).read_bytes()[end:] not in (closing, before):
            self._tell(
                path, "its closing line is missing, or not right", "write it", lambda: _close(path, end, closing)
            )


def _end_of_last_end(path: str) -> int:
    """Where the last line of a job's end stops: what follows is the closing line, or what became of it."""
    end = at = 0
    with open(path, "rb") as file:
        for line in file:
            at += len(line)
            if line.endswith(b"\n") and line.startswith((results.END_PREFIX, b'{"k":"skip"')):
                end = at
    return end


def _close(path: str, end: int, closing: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, closing, end)
        os.ftruncate(fd, end + len(closing))
        os.fsync(fd)
    finally:
        os.close(fd)

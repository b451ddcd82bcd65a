"""Reads unfinished batches back when the server starts: `data/active` alone, however many finished ones there are.

What it cannot know it leaves open: a job that was ordered and has no end stays in `running` with the epoch it was
ordered from, until an executor attaches and tells (scheduling/scheduler.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobworker.server.errors import DamagedError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import JobState
from jobworker.server.store import results
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batchfile import BatchReader
from jobworker.server.store.journal import Syncer
from jobworker.server.store.layout import RESULTS, Layout

# Changes at each start of the machine: proc(5), /proc/sys/kernel/random.
BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LARGE_JOBS = 1000


def boot_id() -> str:
    """This life of the machine."""
    with open(BOOT_ID) as file:
        return file.read().strip()


@dataclass
class Recovered:
    """What was found."""

    batches: list[ActiveBatch] = field(default_factory=list)
    # Jobs that may have run when the machine died: (batch, index).
    lost: list[tuple[ActiveBatch, int]] = field(default_factory=list)
    removed: int = 0  # never acknowledged
    set_aside: int = 0  # could not be read


def recover(*, layout: Layout, syncer: Syncer, boot: str, report: Callable[[str, str], object]) -> Recovered:
    """Reads every unfinished batch, oldest first. `report(path, problem)` is told of what could not be read."""
    found = Recovered()
    for name in sorted(os.listdir(layout.active_root)):
        folder = f"{layout.active_root}/{name}"
        try:
            batch, lost = _read(folder, syncer=syncer, boot=boot, report=report)
        except FileNotFoundError:
            batch = None
        except (DamagedError, ValueError, KeyError, TypeError, IndexError) as e:
            place = layout.set_aside(folder)
            report(place, f"an unfinished batch cannot be read and was set aside: {e}")
            found.set_aside += 1
            continue
        if batch is None:
            layout.discard(folder)
            found.removed += 1
            continue
        found.batches.append(batch)
        found.lost += [(batch, index) for index in lost]
    found.batches.sort(key=lambda b: b.header.accepted_at)
    return found


def _read(
    folder: str, *, syncer: Syncer, boot: str, report: Callable[[str, str], object]
) -> tuple[ActiveBatch | None, list[int]]:
    reader = BatchReader(folder)
    closing = reader.closing()
    if closing is None:
        return None, []
    header = reader.header()
    if header.correlation_id != CorrelationId.parse(os.path.basename(folder)):
        raise DamagedError("the folder is named after another batch", path=folder)
    batch = ActiveBatch(folder=folder, header=header, job_count=closing[0], offsets=None, syncer=syncer, boot=boot)
    path = f"{folder}/{RESULTS}"
    if cut := results.cut_torn_line(path):
        report(path, f"a torn last line of {cut} bytes was cut off")
    picture = _Picture(batch)
    for offset, line in results.read_lines(path, lambda at, _: report(path, f"a damaged line at byte {at}")):
        picture.apply(offset, line)
    if batch.job_count > _LARGE_JOBS:
        batch.reader.load()  # now, and not when the first is started and others want answers
    return batch, picture.conclude(boot)


class _Picture:
    """Applies the lines of a batch's results."""

    def __init__(self, batch: ActiveBatch) -> None:
        self._batch = batch
        self._ordered: dict[int, str] = {}
        self._next = 0
        self._mark_boot = ""

    def apply(self, offset: int, d: dict[str, Any]) -> None:
        batch = self._batch
        match d["k"]:
            case "mark":
                batch.mark, self._mark_boot = min(d["below"], batch.job_count), d["boot"]
            case "order":
                self._ordered.update(dict.fromkeys(d["jobs"], d["epoch"]))
            case "back":
                self._ordered.pop(d["job"], None)
                self._next = max(self._next, d["job"] + 1)
            case "start":
                if batch.settled[d["job"]] == JobState.QUEUED:
                    batch.note_start(d["job"], d["at"])
            case "end":
                batch.note_batch_start(d.get("started"))
                batch.recover_end(d["job"], JobState(d["state"]), d.get("ended"), offset)
            case "skip":
                for index in range(d["from"], d["to"]):
                    batch.recover_end(index, JobState(d["state"]), d["at"], offset)
            case _:
                pass  # a newer version's, or the closing line of a batch that was not moved yet

    def conclude(self, boot: str) -> list[int]:
        """Sets what may be started next; returns the jobs that a machine's death took.

        On the machine life that wrote the mark, the intents are complete: a job without one never started. On another,
        lines that were not synced may be missing, and every job below the mark may have run.
        """
        batch = self._batch
        open_jobs = {i: e for i, e in self._ordered.items() if not JobState(batch.settled[i]).final}
        batch.next = max(self._next, max(self._ordered, default=-1) + 1)
        if self._mark_boot and self._mark_boot != boot:
            batch.next = max(batch.next, batch.mark)
            lost = [i for i in range(batch.next) if not JobState(batch.settled[i]).final]
            batch.running = dict.fromkeys(lost, "")
            return lost
        batch.running = open_jobs
        batch.again.extend(i for i in range(batch.next) if batch.settled[i] == JobState.QUEUED and i not in open_jobs)
        batch.skip_settled()
        return []

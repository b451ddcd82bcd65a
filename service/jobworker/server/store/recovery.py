"""Reads the service's state back when the server starts: the commit log's segments and the unfinished batches, however
many finished ones there are. What the log says is brought into the batches' files, and the state is read from these by
the same reducer as ever (core/batch.py). What is damaged is set aside and reported, and stops nothing else.

What it cannot know it leaves open: a job that was ordered and has no end stays with the executor it was ordered from,
until one attaches and tells (scheduling/scheduler.py).
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from jobworker.server.errors import UNREADABLE, DamagedError, InvalidRequestError
from jobworker.server.ids import CorrelationId
from jobworker.server.store import gaps, results, takeover
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.committed import CommittedBatches, Logged
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import BATCH, RESULTS, Layout
from jobworker.server.store.replay import Report, apply_line, read_batch
from jobworker.server.store.stored import Stored

# Changes at each start of the machine: proc(5), /proc/sys/kernel/random.
BOOT_ID = "/proc/sys/kernel/random/boot_id"

_FULL = (errno.ENOSPC, errno.EDQUOT)


def boot_id() -> str:
    """This life of the machine."""
    with open(BOOT_ID) as file:
        return file.read().strip()


@dataclass
class Recovered:
    """What was found."""

    batches: list[ActiveBatch] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    # Jobs that ran, or may have, when the machine died: (batch, index).
    lost: list[tuple[ActiveBatch, int]] = field(default_factory=list)
    stored: dict[str, Stored] | None = None  # what finished batches take, by user; None: it is to be counted
    removed: int = 0  # never acknowledged
    set_aside: int = 0  # could not be read


def recover(*, layout: Layout, disk: Disk, boot: str, report: Report) -> Recovered:
    """Brings the files up to date and reads every unfinished batch, oldest first; nothing is synced by that
    (Ledger.begin). `report(path, problem)` is told of what could not be read.

    Raises:
        DamagedError: the commit log is of a newer version.
        OSError: a file could not be read or written.
    """
    disk.make_folders(layout.commit_root)
    log = CommittedBatches(layout, report)
    found = Recovered(segments=log.numbers)
    if log.boot is None:
        _take_over(layout, boot=boot, report=report, found=found)
    else:
        machine_died = log.boot not in (boot, "")
        _read_all(layout, disk, log, machine_died=machine_died, report=report, found=found)
        if machine_died:
            found.lost = [(batch, index) for batch in found.batches for index in batch.recorded.running]
    if found.stored is None and not any(layout.finished_folders()):
        found.stored = {}
    found.batches.sort(key=lambda batch: batch.header.accepted_at)
    return found


def _take_over(layout: Layout, *, boot: str, report: Report, found: Recovered) -> None:
    """From the version before the commit log, or from nothing at all."""
    for name in sorted(os.listdir(layout.active_root)):
        folder = f"{layout.active_root}/{name}"
        try:
            batch, lost = takeover.read(folder, boot=boot, report=report)
        except FileNotFoundError:
            batch = None
        except (DamagedError, InvalidRequestError, *UNREADABLE) as e:
            _set_aside(layout, folder, e, report, found)
            continue
        if batch is None:
            layout.discard(folder)
            found.removed += 1
            continue
        found.batches.append(batch)
        found.lost += [(batch, index) for index in lost]


def _read_all(
    layout: Layout, disk: Disk, log: CommittedBatches, *, machine_died: bool, report: Report, found: Recovered
) -> None:
    found.stored = None if log.damaged or os.path.exists(layout.recount_file) else log.stored
    for correlation_id, user in log.gone.items():
        if correlation_id not in log.batches:
            layout.bury_finished(layout.finished(user, CorrelationId(correlation_id)))
    for name in sorted(os.listdir(layout.active_root)):
        if name not in log.batches:
            _unknown(layout, log, f"{layout.active_root}/{name}", report, found)
    for correlation_id, logged in log.batches.items():
        batch = _read_logged(layout, disk, correlation_id, logged, report=report, found=found)
        if batch is not None and machine_died:
            gaps.note(batch, synced=_synced(logged), disk=disk, report=report)
        # If it is complete, the log's totals have it in, unless the log says something of it after them.
        _count(found, batch, counted=correlation_id not in log.changed)


def _read_logged(
    layout: Layout, disk: Disk, correlation_id: str, logged: Logged, *, report: Report, found: Recovered
) -> ActiveBatch | None:
    """A batch that the log knows, the last in `found` where it is not with the finished; None: it cannot be read."""
    folder = _folder(layout, correlation_id)
    if folder is None:
        if logged.accept is None or not logged.accept.content:
            report(layout.active_root, f"batch {correlation_id} is in the commit log, and its folder is not there")
            return None
        folder = f"{layout.active_root}/{correlation_id}"
        disk.make_folder(folder)
    try:
        batch = _batch(folder, logged, disk, report)
        if folder.startswith(f"{layout.active_root}/"):
            found.batches.append(batch)
        elif batch.complete:
            _close_results(batch, disk)
        else:
            raise DamagedError("it lies with the finished, and is not", path=folder)
    except (DamagedError, FileNotFoundError, InvalidRequestError, *UNREADABLE) as e:
        _set_aside(layout, folder, e, report, found)
        return None
    return batch


def _count(found: Recovered, batch: ActiveBatch | None, *, counted: bool) -> None:
    """Brings up to date what the finished batches take; None: one that cannot be read."""
    if batch is None:
        found.stored = None if counted else found.stored
        return
    is_finished = batch not in found.batches[-1:]
    if found.stored is None or not batch.complete or counted == is_finished:
        return
    sign = 1 if is_finished else -1  # its move was lost, and it will finish again
    batch.close_results(batch.folder)
    mine = found.stored.setdefault(batch.header.user, Stored())
    mine.add(Stored(sign, sign * batch.stored_bytes, sign * batch.stored_files))


def _unknown(layout: Layout, log: CommittedBatches, folder: str, report: Report, found: Recovered) -> None:
    """A folder that the log knows nothing of: a batch that was never accepted has no results. Of others nothing may be
    lost, nor where the log itself is damaged."""
    if log.damaged or os.path.exists(f"{folder}/{RESULTS}"):
        _set_aside(layout, folder, DamagedError("the commit log knows nothing of it", path=folder), report, found)
    else:
        layout.discard(folder)
        found.removed += 1


def _set_aside(layout: Layout, folder: str, error: Exception, report: Report, found: Recovered) -> None:
    place = layout.set_aside(folder)
    report(place, f"a batch cannot be read and was set aside: {error}")
    found.set_aside += 1


def _folder(layout: Layout, correlation_id: str) -> str | None:
    folder = f"{layout.active_root}/{correlation_id}"
    if os.path.isdir(folder):
        return folder
    for user in layout.users():
        folder = layout.finished(user, CorrelationId.parse(correlation_id))
        if os.path.isdir(folder):
            return folder
    return None


def _batch(folder: str, logged: Logged, disk: Disk, report: Report) -> ActiveBatch:
    """Brings the folder's files to what the log says, and reads them. What a full disk does not take stays with the
    batch, to be written later."""
    content = b""
    if logged.accept is not None and logged.accept.content:
        content = _write_whole(f"{folder}/{BATCH}", logged.accept.content, disk)
    path = f"{folder}/{RESULTS}"
    written, tail = _write_lines(path, logged, disk, report)
    batch = read_batch(folder, content)
    for offset, line in results.read_lines(path, lambda at, _: report(path, f"a damaged line at byte {at}")):
        if offset < written:
            apply_line(batch, line, offset, report)
    offset = written
    for text in tail.splitlines(keepends=True):
        apply_line(batch, json.loads(text), offset, report)
        offset += len(text)
    batch.recovered(written, tail)
    return batch


def _write_whole(path: str, content: bytes, disk: Disk) -> bytes:
    """Returns the content where a full disk does not take it."""
    try:
        if Path(path).read_bytes() == content:
            return b""
    except FileNotFoundError:
        pass
    try:
        disk.write_whole(path, content)
    except OSError as e:
        if e.errno not in _FULL:
            raise
        return content
    return b""


def _write_lines(path: str, logged: Logged, disk: Disk, report: Report) -> tuple[int, bytearray]:
    """The log's lines, each where it belongs; returns the length of the file, and what a full disk did not take."""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    end, pieces = _placed(path, logged, size, report)
    if not size and not pieces:
        return 0, bytearray()
    tail = bytearray()
    try:
        fd = disk.open(path)
    except OSError as e:
        if e.errno not in _FULL:
            raise
        return 0, bytearray().join([lines for _, lines in pieces])
    try:
        for at, lines in pieces:
            if not tail:
                try:
                    disk.write(fd, lines, at)
                except OSError as e:
                    if e.errno not in _FULL:
                        raise
                else:
                    end = max(end, at + len(lines))
                    continue
            tail += lines
        disk.truncate(fd, end)
    finally:
        disk.close(fd)
    return end, tail


def _placed(path: str, logged: Logged, size: int, report: Report) -> tuple[int, list[tuple[int, bytes]]]:
    """How much of a file that long is durable, and the lines that follow, with their offsets. What lies in it below the
    first of them was synced before the log's older segments were removed; what lies behind the last never was
    durable."""
    begin = _synced(logged)
    if size < begin:
        report(path, f"bytes {size} to {begin} are missing")
        begin = size
    placed: list[tuple[int, bytes]] = []
    end = begin
    for piece in logged.pieces:
        at = piece.offset
        if not piece.lines and end < at <= size and not placed:
            begin = end = at  # a checkpoint: what the log lost of it is in the file
        if at > end:
            report(path, f"bytes {end} to {at} are missing")
            at = end
        if piece.lines:
            placed.append((at, piece.lines))
            end = max(end, at + len(piece.lines))
    return begin, placed


def _synced(logged: Logged) -> int:
    """So much of the results was synced, with the logs of the jobs that end in it, by a checkpoint."""
    return 0 if logged.accept is not None or not logged.pieces else logged.pieces[0].offset


def _close_results(batch: ActiveBatch, disk: Disk) -> None:
    fd = disk.open(f"{batch.folder}/{RESULTS}")
    try:
        disk.write(fd, batch.close_results(batch.folder), batch.written)
    finally:
        disk.close(fd)
    batch.close()

"""The lines of `results.jsonl`: what happened to a batch's jobs, appended as it happened.

| line | meaning |
|---|---|
| `{"k":"mark","below":N,"boot":B}` | synced before any job below N is started; B is the machine's boot id |
| `{"k":"order","jobs":[..],"epoch":E,"at":T}` | the intent to start these on the executor of epoch E |
| `{"k":"back","job":I}` | the executor stopped before it started job I, which is queued again |
| `{"k":"start","job":I,"at":T}` | the executor started job I |
| `{"k":"end","job":I,"state":S,...}` | job I is final |
| `{"k":"skip","from":I,"to":J,"state":S,"reason":R,"at":T}` | jobs I to J - 1 are final, never having run |
| `{"k":"final","counts":{S:N},"started":T,"ended":T}` | the batch is final |

States and reasons are the numbers of `v1/job.proto`, times Unix nanoseconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from jobworker.server.model import EndReason, JobEnd, JobState, Usage

_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
END_PREFIX = b'{"k":"end","job":'


def mark_line(below: int, boot: str) -> bytes:
    """See the module."""
    return _encode({"k": "mark", "below": below, "boot": boot}).encode() + b"\n"


def order_line(jobs: list[int], epoch: str, at: int) -> bytes:
    """See the module."""
    return _encode({"k": "order", "jobs": jobs, "epoch": epoch, "at": at}).encode() + b"\n"


def back_line(job: int) -> bytes:
    """See the module."""
    return b'{"k":"back","job":%d}\n' % job


def start_line(job: int, at: int) -> bytes:
    """See the module."""
    return b'{"k":"start","job":%d,"at":%d}\n' % (job, at)


def end_line(job: int, end: JobEnd) -> bytes:
    """See the module; what is unknown is left out. Put together by hand: each quick job pays for it."""
    line = b'{"k":"end","job":%d,"state":%d,"reason":%d' % (job, end.state, end.reason)
    if end.detail:
        line += b',"detail":%b' % _encode(end.detail).encode()
    if end.exit_code is not None:
        line += b',"code":%d' % end.exit_code
    if end.signal is not None:
        line += b',"signal":%d' % end.signal
    if end.waited:
        line += b',"waited":true'
    if end.started_at is not None:
        line += b',"started":%d' % end.started_at
    if end.ended_at is not None:
        line += b',"ended":%d' % end.ended_at
    if (u := end.usage) is not None:
        peak = b"null" if u.peak_memory_bytes is None else b"%d" % u.peak_memory_bytes
        numbers = (u.read_bytes, u.written_bytes, u.voluntary_switches, u.involuntary_switches)
        line += b',"usage":[%d,%d,%b,%d,%d,%d,%d]' % (u.user_us, u.system_us, peak, *numbers)
    return line + b',"logs":[%b]}\n' % b",".join(b"%d" % size for size in end.log_bytes)


def skip_line(begin: int, stop: int, state: JobState, reason: EndReason, at: int) -> bytes:
    """See the module."""
    return (
        _encode({"k": "skip", "from": begin, "to": stop, "state": state, "reason": reason, "at": at}).encode() + b"\n"
    )


def final_line(counts: dict[JobState, int], started: int | None, ended: int | None) -> bytes:
    """See the module."""
    return (
        _encode({"k": "final", "counts": {int(k): v for k, v in counts.items()}, "started": started, "ended": ended})
    ).encode() + b"\n"


def decode_end(d: dict[str, Any]) -> JobEnd:
    """The end of an `end` line, parsed."""
    usage = d.get("usage")
    return JobEnd(
        state=JobState(d["state"]),
        reason=EndReason(d["reason"]),
        detail=d.get("detail", ""),
        exit_code=d.get("code"),
        signal=d.get("signal"),
        waited=d.get("waited", False),
        started_at=d.get("started"),
        ended_at=d.get("ended"),
        usage=Usage(*usage) if usage else None,
        log_bytes=tuple(d.get("logs", ())),
    )


def skip_end(d: dict[str, Any], streams: int) -> JobEnd:
    """The end of a job that a `skip` line covers."""
    return JobEnd(state=JobState(d["state"]), reason=EndReason(d["reason"]), ended_at=d["at"], log_bytes=(0,) * streams)


def read_lines(path: str, damaged: Callable[[int, bytes], object]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines with the offset of each; absent is empty.

    A torn last line ends them (cut_torn_line removes it). A damaged line elsewhere is told to `damaged` and passed
    over: the lines after it are true all the same.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below; the except must not cover the reading)
    except FileNotFoundError:
        return
    with file:
        at = 0
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                d = json.loads(line)
                if not isinstance(d, dict) or "k" not in d:
                    raise ValueError("not a record")
            except ValueError:
                damaged(at, line)
            else:
                yield at, d
            at += len(line)


def cut_torn_line(path: str) -> int:
    """Cuts off a last line that has no newline, before anything is appended behind it; returns the bytes cut."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size = end = os.fstat(fd).st_size
        while end:
            begin = max(0, end - 65536)
            piece = os.pread(fd, end - begin, begin)
            if (newline := piece.rfind(b"\n")) >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            os.ftruncate(fd, end)
            os.fsync(fd)
        return size - end
    finally:
        os.close(fd)

"""The lines of `results.jsonl`: what happened to a batch's jobs, in order; each durable in the commit log before it is
written there.

| line | meaning |
|---|---|
| `{"k":"order","jobs":[..],"epoch":E,"at":T}` | these are about to be sent to the executor of epoch E |
| `{"k":"back","job":I}` | job I was ordered and did not start; it is queued again |
| `{"k":"start","job":I,"at":T}` | the executor started job I |
| `{"k":"end","job":I,"state":S,...}` | job I is final |
| `{"k":"skip","from":I,"to":J,"state":S,"reason":R,"at":T}` | jobs I to J - 1 are final, never having run |
| `{"k":"final","counts":{S:N},"started":T,"ended":T,"logs":[B,F]}` | all is final; the logs take B bytes, in F files |

Files of versions before the commit log have `mark` lines, too (takeover.py). States and reasons are the numbers of
`v1/job.proto`, times Unix nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from jobworker.server.core.records import Ended, Ordered, Record, Returned, Skipped, Started
from jobworker.server.errors import UNREADABLE
from jobworker.server.model import EndReason, JobEnd, JobState, Usage

_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
END_PREFIX = b'{"k":"end","job":'


def encode(record: Record) -> bytes:
    """The line of a record."""
    kind = type(record)
    if kind is Ended:
        return end_line(record.job, record.end)  # type: ignore[union-attr]
    if isinstance(record, Ordered):
        jobs = b",".join([b"%d" % job for job in record.jobs])
        return b'{"k":"order","jobs":[%b],"epoch":%b,"at":%d}\n' % (jobs, _encode(record.epoch).encode(), record.at)
    if isinstance(record, Started):
        return b'{"k":"start","job":%d,"at":%d}\n' % (record.job, record.at)
    if isinstance(record, Skipped):
        numbers = (record.begin, record.stop, record.state, record.reason, record.at)
        return b'{"k":"skip","from":%d,"to":%d,"state":%d,"reason":%d,"at":%d}\n' % numbers
    return b'{"k":"back","job":%d}\n' % record.job


def decode(d: dict[str, Any]) -> Record | None:
    """The record of a line, parsed; None: it is none, as the closing line, or a newer version's.

    Raises:
        KeyError, TypeError, ValueError: it is not as it should be.
    """
    match d["k"]:
        case "end":
            return Ended(int(d["job"]), decode_end(d))
        case "order":
            return Ordered(tuple(map(int, d["jobs"])), str(d["epoch"]), int(d["at"]))
        case "start":
            return Started(int(d["job"]), int(d["at"]))
        case "skip":
            reason, state = EndReason(d["reason"]), JobState(d["state"])
            return Skipped(int(d["from"]), int(d["to"]), reason, int(d["at"]), state)
        case "back":
            return Returned(int(d["job"]))
        case _:
            return None


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
    if end.dropped_head:
        line += b',"dropped_head":[%b]' % b",".join(b"%d" % size for size in end.dropped_head)
    if end.dropped_tail:
        line += b',"dropped_tail":[%b]' % b",".join(b"%d" % size for size in end.dropped_tail)
    return line + b',"logs":[%b]}\n' % b",".join(b"%d" % size for size in end.log_bytes)


def final_line(
    counts: dict[JobState, int], started: int | None, ended: int | None, logs: tuple[int, int] | None = None
) -> bytes:
    """See the module; `logs` are the bytes and the files (with their folders) of all logs."""
    d: dict[str, Any] = {
        "k": "final", "counts": {int(k): v for k, v in counts.items()}, "started": started, "ended": ended
    }  # fmt: skip
    if logs is not None:
        d["logs"] = logs
    return _encode(d).encode() + b"\n"


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
        dropped_head=tuple(d.get("dropped_head", ())),
        dropped_tail=tuple(d.get("dropped_tail", ())),
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
            except UNREADABLE:
                damaged(at, line)
            else:
                yield at, d
            at += len(line)

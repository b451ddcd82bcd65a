"""The commit log's format. A segment is a file of frames: each a line of JSON and, where it says so, bytes behind it.

| line | meaning |
|---|---|
| `{"c":C,"segment":N,"v":1,"boot":B}` | begins a segment, the N-th; B is the machine's boot id |
| `{"c":C,"group":L}` | the next L bytes were written and synced together |
| `{"c":C,"b":ID,"accept":N,"l":L}` | batch ID was accepted, of N jobs; its `batch.jsonl` is behind it, or synced |
| `{"c":C,"b":ID,"o":O,"l":L}` | behind it L bytes of the batch's `results.jsonl`, from its offset O on |
| `{"c":C,"b":ID,"gone":true}` | the batch was removed before anybody was told of it |
| `{"c":C,"b":ID,"gone":true,"user":U,"bytes":B,"files":F}` | the finished batch is removed, which takes so much |
| `{"c":C,"stored":N,"l":L}` | behind it JSON: what the finished batches of N users take |

C is the CRC-32 (zlib's) of what follows it in the line, and of the bytes behind the line; eight hexadecimal digits. A
group whose end was never synced is torn and counts for nothing from the first frame on that cannot be read; one with a
whole group behind it was synced, and a frame in it that cannot be read is damage.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobworker.server.errors import UNREADABLE
from jobworker.server.store.stored import Stored, decode, encode

VERSION = 1
_HEAD = b'{"c":"%08x",%b\n'
_HEAD_AT = len(b'{"c":"00000000",')
_LINE_BYTES = 4096  # no frame's line is longer
_GROUP = re.compile(rb'\{"c":"[0-9a-f]{8}","group":\d{1,12}\}\n')


def _frame(rest: bytes, payload: bytes = b"") -> bytes:
    return (_HEAD % (zlib.crc32(payload, zlib.crc32(rest)), rest)) + payload


def segment_frame(number: int, boot: str) -> bytes:
    """See the module."""
    return _frame(b'"segment":%d,"v":%d,"boot":%b}' % (number, VERSION, json.dumps(boot).encode()))


def group_frame(length: int) -> bytes:
    """See the module."""
    return _frame(b'"group":%d}' % length)


def accept_frame(correlation_id: str, jobs: int, content: bytes) -> bytes:
    """See the module; `content` is empty where the batch's file was synced before."""
    return _frame(b'"b":"%b","accept":%d,"l":%d}' % (correlation_id.encode(), jobs, len(content)), content)


def results_frame(correlation_id: str, offset: int, lines: bytes) -> bytes:
    """See the module. Without lines it says how much there was before: where the log's older segments are gone, that
    is in the batch's own file."""
    return _frame(b'"b":"%b","o":%d,"l":%d}' % (correlation_id.encode(), offset, len(lines)), lines)


def gone_frame(correlation_id: str, user: str = "", stored: Stored | None = None) -> bytes:
    """See the module; of a finished batch with its user and what it takes."""
    rest = b'"b":"%b","gone":true' % correlation_id.encode()
    if stored is not None:
        rest += b',"user":%b,"bytes":%d,"files":%d' % (json.dumps(user).encode(), stored.bytes, stored.files)
    return _frame(rest + b"}")


def totals_frame(totals: Totals) -> bytes:
    """See the module."""
    said = {"users": encode(totals.users), "but": totals.but, "gone": totals.gone}
    payload = json.dumps(said, separators=(",", ":")).encode()
    return _frame(b'"stored":%d,"l":%d}' % (len(totals.users), len(payload)), payload)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the finished batches of each user take; those in `but` are complete, and not among them yet. Those in
    `gone`, with their users, are not among them any more, and may still be there."""

    users: dict[str, Stored]
    but: list[str]
    gone: dict[str, str]


@dataclass(frozen=True, slots=True)
class Gone:
    """A batch that was removed; `stored` of a finished one."""

    correlation_id: str
    user: str
    stored: Stored | None


@dataclass(frozen=True, slots=True)
class Accept:
    """An accepted batch; `content` is empty where its file was synced before."""

    correlation_id: str
    jobs: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a batch's results."""

    correlation_id: str
    offset: int
    lines: bytes


Frame = Accept | Lines | Gone | Totals


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a segment."""

    number: int
    boot: str


class FormatError(Exception):
    """The segment was written by a newer version."""


def read_segment(data: bytes, damaged: Callable[[int], object]) -> tuple[Head | None, Iterator[Frame]]:
    """What a segment says; its head is None where it was never begun.

    `damaged` is called, while the frames are gone through, with the offset of each part that had been synced and cannot
    be read now. A torn end is not damage.

    Raises:
        FormatError: a newer version wrote it.
    """
    head = _read(data, 0)
    if head is None or "segment" not in head.d:
        if _GROUP.search(data):
            damaged(0)
            return Head(-1, ""), _frames(data, 0, damaged)
        return None, iter(())
    if head.d["v"] > VERSION:
        raise FormatError(f"version {head.d['v']}, this is {VERSION}")
    return Head(head.d["segment"], head.d["boot"]), _frames(data, head.stop, damaged)


@dataclass(slots=True)
class _Found:
    d: dict[str, Any]
    payload: bytes
    stop: int


def _frames(data: bytes, at: int, damaged: Callable[[int], object]) -> Iterator[Frame]:
    while at < len(data) and data[at]:
        group = _read(data, at)
        if group is None or "group" not in group.d:
            found = _GROUP.search(data, at + 1)
            while found is not None and _read(data, found.start()) is None:
                found = _GROUP.search(data, found.start() + 1)
            if found is None:
                return  # torn: nothing was synced behind it
            damaged(at)
            at = found.start()
            continue
        stop = group.stop + int(group.d["group"])
        synced = _GROUP.match(data, stop) is not None
        at = group.stop
        while at < stop:
            frame = _read(data, at)
            if frame is None or frame.stop > stop:
                if not synced:
                    return
                damaged(at)
                break
            found_frame = _parse(frame)
            if found_frame is not None:
                yield found_frame
            at = frame.stop
        at = stop


def _parse(frame: _Found) -> Frame | None:
    d = frame.d
    if "accept" in d:
        return Accept(str(d["b"]), int(d["accept"]), frame.payload)
    if "o" in d:
        return Lines(str(d["b"]), int(d["o"]), frame.payload)
    if "gone" in d:
        stored = Stored(1, int(d["bytes"]), int(d["files"])) if "bytes" in d else None
        return Gone(str(d["b"]), str(d.get("user", "")), stored)
    if "stored" in d:
        found = json.loads(frame.payload)
        return Totals(decode(found["users"]), list(found["but"]), dict(found["gone"]))
    return None  # of a newer version


def _read(data: bytes, at: int) -> _Found | None:
    """The frame that begins at an offset, if it is whole."""
    end = data.find(b"\n", at, at + _LINE_BYTES)
    if end < 0 or not data.startswith(b'{"c":"', at):
        return None
    try:
        d = json.loads(data[at:end])
        length = d.get("l", 0)
        stop = end + 1 + length
        payload = data[end + 1 : stop]
        whole = int(d["c"], 16) == zlib.crc32(payload, zlib.crc32(data[at + _HEAD_AT : end]))
    except UNREADABLE:
        return None
    return _Found(d, payload, stop) if whole and len(payload) == length else None

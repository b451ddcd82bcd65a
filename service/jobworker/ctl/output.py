"""What people and programs read: messages on stderr, tables and JSON on stdout. Whatever `jobctl` prints goes through
here, but for the bytes of logs, so that no text of others steers the terminal."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from jobworker.ctl.durations import format_seconds
from jobworker.ctl.exits import complain
from jobworker.ctl.visible import visible, visible_json
from jobworker.v1.job_pb2 import Batch, BatchState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.table import Table
    from rich.text import Text

    from jobworker.client import Retry
    from jobworker.v1.job_pb2 import Job
    from jobworker.v1.query_pb2 import SearchJobResponse

_STYLES = {
    "QUEUED": "dim",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "TIMED_OUT": "red",
    "LOST": "magenta",
    "SKIPPED": "dim",
}
_PLAIN_WIDTH = 10_000  # columns of a table that no terminal shows: nothing is wrapped or cut


def note(text: str) -> None:
    """One line on stderr."""
    complain(text)
    sys.stderr.flush()


def say(text: str = "", *, flush: bool = False) -> None:
    """One line on stdout."""
    print(visible(text), flush=flush)


def note_retry(retry: Retry) -> None:
    """A cut connection that is about to be mended, or a log that is shorter than what was shown of it."""
    if retry.error.code.name == "OUT_OF_RANGE":
        note(f"{retry.error.message}: the machine of the service failed")
        return
    words = " ".join(retry.error.message.split()).rsplit(": ", 1)[-1]
    note(f"the connection was lost ({words}); trying again")


def as_json(message: Message) -> dict[str, object]:
    """A message as proto3 JSON. Zeros are written out: a script may rely on `index` and each of the counts."""
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def print_json(value: object) -> None:
    """One JSON text: on one line, or indented at a terminal."""
    text = json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False)
    print(visible_json(text), flush=True)


def print_batch(batch: Batch) -> None:
    """A batch as lines of a name and a value."""
    facts = {
        "batch": batch.correlation_id,
        "name": batch.name,
        "labels": " ".join(f"{key}={value}" for key, value in sorted(batch.labels.items())),
        "user": batch.user,
        "state": batch_state(batch),
        "jobs": counts_in_words(batch),
        "accepted": moment(batch.accepted_at) if batch.HasField("accepted_at") else "",
        "started": moment(batch.started_at) if batch.HasField("started_at") else "",
        "ended": moment(batch.ended_at) if batch.HasField("ended_at") else "",
        "took": took(batch),
    }
    rows = table("", "", header=False)
    for name, value in facts.items():
        if value:
            add_row(rows, f"{name}:", _styled(value) if name == "state" else value)
    show(rows)


def print_jobs(responses: Iterable[SearchJobResponse]) -> None:
    """Jobs as a table."""
    rows = table("JOB", "RESULT", "TOOK", "LOG", "COMMAND")
    for response in responses:
        job = response.job
        command = job.command or " ".join(job.argv)
        words = " ".join((f"{job.name}: " if job.name else "", " ".join(command.split()))).strip()
        log = sum(size.bytes for size in job.logs)
        add_row(rows, str(job.index), _styled(response.result), took(job), format_bytes(log) + _dropped(job), words)
    show(rows)


def print_batches(batches: Iterable[Batch]) -> None:
    """Batches as a table."""
    rows = table("ID", "STATE", "DONE", "FAILED", "USER", "ACCEPTED", "TOOK", "NAME")
    for batch in batches:
        add_row(
            rows,
            batch.correlation_id,
            _styled(batch_state(batch)),
            f"{done_count(batch)}/{batch.job_count}",
            str(failed_count(batch) or ""),
            batch.user,
            moment(batch.accepted_at),
            took(batch),
            batch.name,
        )
    show(rows)


def batch_state(batch: Batch) -> str:
    """`RUNNING`."""
    return BatchState.Name(batch.state).removeprefix("BATCH_STATE_")


def done_count(batch: Batch) -> int:
    """How many of its jobs are final."""
    return batch.job_count - batch.counts.queued - batch.counts.running


def failed_count(batch: Batch) -> int:
    """How many of its jobs ended badly, by themselves or by accident."""
    return batch.counts.failed + batch.counts.timed_out + batch.counts.lost


def counts_in_words(batch: Batch) -> str:
    """`3: 2 succeeded, 1 failed`."""
    counts = [(field.name, value) for field, value in batch.counts.ListFields()]
    return f"{batch.job_count}: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts)


def moment(stamp: Timestamp) -> str:
    """A time in the user's zone, to the second."""
    return datetime.fromtimestamp(stamp.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def took(what: Batch | Job) -> str:
    """From start to end; empty where one is not known."""
    if not (what.HasField("started_at") and what.HasField("ended_at")):
        return ""
    nanoseconds = what.ended_at.ToNanoseconds() - what.started_at.ToNanoseconds()
    return format_seconds(nanoseconds / 1e9)


def format_bytes(count: int) -> str:
    """`0`, `999`, `1.5K`, `256M`: powers of 1024."""
    if count < 1024:
        return str(count)
    size, unit = float(count), ""
    for unit in "KMGTPE":  # noqa: B007 - the last one is used
        size /= 1024
        if size < 1023.95:
            break
    return f"{size:.1f}{unit}" if size < 99.95 else f"{size:.0f}{unit}"


def show(table: Table) -> None:
    """With colours and cut to the width at a terminal, plain and whole elsewhere."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(highlight=False, width=_PLAIN_WIDTH)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def table(*columns: str, header: bool = True) -> Table:
    """An empty one, with its columns."""
    from rich.table import Table

    table = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, name in enumerate(columns):
        last = position == len(columns) - 1
        table.add_column(name, no_wrap=True, overflow="ellipsis" if last else "fold")
    return table


def add_row(table: Table, *cells: str | Text) -> None:
    """A row of texts, none of which is markup; a Text was made by `literal`."""
    table.add_row(*(literal(cell) if isinstance(cell, str) else cell for cell in cells))


def literal(text: str) -> Text:
    """Text of others: neither markup nor control characters of it reach the terminal."""
    from rich.text import Text

    return Text(visible(text))


def _dropped(job: Job) -> str:
    """` (9.9G dropped)` behind a log's size, where some of it is gone, or never was in it."""
    dropped = sum(size.dropped_head_bytes + size.dropped_tail_bytes for size in job.logs)
    return f" ({format_bytes(dropped)} dropped)" if dropped else ""


def _styled(result: str) -> Text:
    text = literal(result)
    text.stylize(_STYLES.get(result.partition(" ")[0], ""))
    return text

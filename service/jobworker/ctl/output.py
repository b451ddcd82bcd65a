"""What people and programs read: messages on stderr, tables and JSON on stdout. Whatever `jobctl` prints goes through
here, but for the bytes of logs, so that no text of others steers the terminal."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from jobworker.ctl.context import colours_wanted
from jobworker.ctl.durations import format_seconds
from jobworker.ctl.exits import complain
from jobworker.ctl.options import Form, ListForm
from jobworker.ctl.tables import Look, Styled, render, render_facts
from jobworker.ctl.visible import visible, visible_json
from jobworker.ctl.yamltext import to_yaml
from jobworker.v1.job_pb2 import BATCH_STATE_RUNNING, JOB_STATE_RUNNING, Batch, BatchState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from jobworker.client import Retry
    from jobworker.ctl.tables import Cell, Column
    from jobworker.v1.job_pb2 import Job


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


def print_data(value: object, form: Form | ListForm, *, several: bool = False) -> None:
    """A value for programs. `several`: it is one of those that make up the output.

    JSON is on one line, or indented at a terminal; JSON lines and YAML always have the same layout.
    """
    if form.value == Form.YAML.value:
        text = visible_json(to_yaml(value), pairs=False)
        print(f"---\n{text}" if several else text, flush=True)
        return
    indent = 2 if sys.stdout.isatty() and form.value != ListForm.JSONL.value else None
    print(visible_json(json.dumps(value, indent=indent, ensure_ascii=False)), flush=True)


def print_lines(lines: Iterable[str]) -> None:
    """Texts of others, each on a line."""
    for line in lines:
        say(line, flush=True)


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, header: bool = True, whole: bool = False
) -> None:
    """A table, as wide as the terminal; elsewhere, and with `whole`, as wide as it needs."""
    shown = [[_visible(cell) for cell in row] for row in rows]
    for line in render(columns, shown, _look(whole=whole), header=header):
        print(line)


def print_facts(facts: Iterable[tuple[str, Cell]]) -> None:
    """Lines of a name and a value, without those that have no value."""
    for line in fact_lines(facts):
        print(line)


def fact_lines(facts: Iterable[tuple[str, Cell]]) -> Iterator[str]:
    """What `print_facts` prints."""
    return render_facts([(visible(name), _visible(value)) for name, value in facts if value], _look(whole=True))


def _look(*, whole: bool) -> Look:
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal and not whole else None
    return Look(width, colours=terminal and colours_wanted(), unicode="utf" in (sys.stdout.encoding or "").lower())


def _visible(cell: Cell) -> Cell:
    return Styled(visible(cell.text), cell.style) if isinstance(cell, Styled) else visible(cell)


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
    return local_time(datetime.fromtimestamp(stamp.seconds, UTC))


def local_time(time: datetime) -> str:
    """`2026-01-31 08:00:00+01:00`, or `2026-01-31 07:00:00Z` where the user's zone is UTC."""
    return time.astimezone().isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


def elapsed(what: Batch | Job, now: float) -> str:
    """From start to end, or to `now` (seconds since 1970) of what runs; empty where one of them is not known."""
    running = what.state == (BATCH_STATE_RUNNING if isinstance(what, Batch) else JOB_STATE_RUNNING)
    if not what.HasField("started_at") or not (running or what.HasField("ended_at")):
        return ""
    ended = now * 1e9 if running else what.ended_at.ToNanoseconds()
    return format_seconds(max(0.0, ended - what.started_at.ToNanoseconds()) / 1e9)


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

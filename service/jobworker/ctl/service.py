"""The service's status and configuration, as people read them."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from jobworker.ctl.durations import format_seconds
from jobworker.ctl.output import add_row, as_json, format_bytes, literal, moment, print_json, say, show, table
from jobworker.v1.admin_pb2 import (
    RETENTION_REASON_AGE,
    RETENTION_REASON_STORED,
    RETENTION_REASON_USER_STORED,
    SERVICE_STATE_DRAINING,
    SERVICE_STATE_SERVING,
    ServiceState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from google.protobuf.struct_pb2 import Value
    from rich.table import Table

    from jobworker.client import Client
    from jobworker.v1.admin_pb2 import Config, RetentionPlan, ServiceStatus

_WHY = {
    RETENTION_REASON_AGE: "age",
    RETENTION_REASON_USER_STORED: "the user's batches take too much",
    RETENTION_REASON_STORED: "all batches take too much",
}
_STYLES = {"SERVING": "green", "DRAINING": "yellow", "STOPPED": "red"}


def in_words(status: ServiceStatus) -> str:
    """`DRAINING: 3 jobs run, until 2026-01-01 00:00:00, and 17 wait`."""
    words = f"{_state(status)}: {_jobs(status.running_jobs)} running"
    if status.state == SERVICE_STATE_DRAINING and status.HasField("drain_deadline"):
        words += f" until {moment(status.drain_deadline)}"
    return f"{words}, {status.queued_jobs} waiting"


def print_status(status: ServiceStatus) -> None:
    """As lines of a name and a value."""
    show(_status_table(status))


async def watch_status(client: Client, *, every_seconds: float, as_lines: bool) -> None:
    """Shows the status again and again, until it is cancelled: in place at a terminal, else one after another."""
    if as_lines or not sys.stdout.isatty():
        while True:
            status = await client.admin.status()
            if as_lines:
                print_json(as_json(status))
            else:
                print_status(status)
                say(flush=True)
            await asyncio.sleep(every_seconds)
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            live.update(_status_table(await client.admin.status()), refresh=True)
            await asyncio.sleep(every_seconds)


def print_config(config: Config, *, keys: Collection[str] = ()) -> None:
    """As a table; none is all keys."""
    rows = table("KEY", "VALUE", "SOURCE", "A CHANGE TAKES")
    for entry in config.entries:
        if keys and entry.key not in keys:
            continue
        effect = "effect at once" if entry.live else "a restart"
        add_row(rows, entry.key, _value(entry.value), entry.source, effect)
    add_row(rows, "", "", "", "")
    add_row(rows, "generation", str(config.generation), "", "")
    show(rows)


def print_plan(plan: RetentionPlan) -> None:
    """As a table, and in sum."""
    rows = table("BATCH", "USER", "ENDED AGO", "BYTES", "FILES", "WHY")
    for removal in plan.removals:
        age = format_seconds(removal.age.ToNanoseconds() / 1e9)
        why = _WHY.get(removal.reason, str(removal.reason))
        add_row(rows, removal.correlation_id, removal.user, age, format_bytes(removal.bytes), str(removal.files), why)
    if plan.removals:
        show(rows)
    count = f"more than {len(plan.removals)}" if plan.more else str(len(plan.removals))
    say(f"{count} would be removed now; those listed take {format_bytes(plan.bytes)} in {plan.files} files")
    if plan.counting:
        say("what batches take is being counted: until it is known, none is removed for that")


def _status_table(status: ServiceStatus) -> Table:
    rows = table("", "", header=False)
    for name, value in _facts(status):
        text = literal(value)
        if name == "state":
            text.stylize(_STYLES.get(_state(status), ""), 0, len(_state(status)))
        elif name == "problem":
            text.stylize("red")
        add_row(rows, f"{name}:" if name else "", text)
    return rows


def _facts(status: ServiceStatus) -> Iterator[tuple[str, str]]:
    yield "service", f"jobworker {status.version}, up {format_seconds(status.uptime.ToNanoseconds() / 1e9)}"
    yield "state", in_words(status) if status.state != SERVICE_STATE_SERVING else _state(status)
    yield "jobs", f"{status.running_jobs} running, {status.queued_jobs} queued in {status.unfinished_batches} batches"
    yield "followers", str(status.followers)
    for position, user in enumerate(status.users):
        jobs = f"{user.running_jobs} running, {user.queued_jobs} queued in {user.unfinished_batches} batches"
        kept = f"{format_bytes(user.stored_bytes)} in {user.stored_batches} stored"
        yield "" if position else "users", f"{user.user}: {jobs}, {kept}"
    executor = status.executor
    if executor.attached:
        since = f", up since {moment(executor.up_since)}" if executor.HasField("up_since") else ""
        yield "executor", f"{executor.epoch[:8]}{since}"
        yield "isolation", f"{executor.isolation} ({executor.isolation_detail}); {executor.tree}"
    else:
        yield "executor", "none is attached"
    for problem in status.problems:
        yield "problem", problem
    stored = status.stored
    yield (
        "stored",
        (
            f"{format_bytes(stored.bytes)}{_limit(stored.bytes_limit, format_bytes)} and "
            f"{stored.files}{_limit(stored.files_limit, str)} files in {stored.batches} batches"
            f"{' so far; older ones are being counted' if stored.counting else ''}"
        ),
    )
    disk = status.disk
    yield (
        "disk",
        (
            f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free, "
            f"{disk.free_inodes} of {disk.total_inodes} inodes ({disk.path})"
        ),
    )
    for certificate in status.certificates:
        days = (certificate.expires_at.seconds - time.time()) / 86400
        yield f"{certificate.name} certificate", f"expires {moment(certificate.expires_at)}, in {days:.0f} days"
    config = status.config
    yield "configuration", f"generation {config.generation}, since {moment(config.loaded_at)}"
    if config.last_error:
        yield "problem", f"{config.last_error} (at {moment(config.last_error_at)}; the one before stays in force)"


def _limit(limit: int, form: Callable[[int], str]) -> str:
    return f" of {form(limit)}" if limit else ""


def _state(status: ServiceStatus) -> str:
    return ServiceState.Name(status.state).removeprefix("SERVICE_STATE_")


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _value(value: Value) -> str:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return str(int(number)) if number.is_integer() else str(number)
        case "string_value":
            return value.string_value
        case "bool_value":
            return str(value.bool_value).lower()
        case _:
            return "none"

"""The service's status and configuration, as people read them."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from jobworker.ctl.durations import format_seconds
from jobworker.ctl.listing import Field, Listing, Shown
from jobworker.ctl.options import Form, ListForm
from jobworker.ctl.output import as_json, fact_lines, format_bytes, moment, print_data, print_facts, say
from jobworker.ctl.tables import Column, Styled
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

    from jobworker.client import Client
    from jobworker.ctl.tables import Cell
    from jobworker.v1.admin_pb2 import Config, ConfigEntry, RetentionPlan, RetentionRemoval, ServiceStatus

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


def print_status(status: ServiceStatus, form: Form) -> None:
    """As lines of a name and a value, or for programs."""
    if form is Form.TABLE:
        print_facts(_facts(status))
    else:
        print_data(as_json(status), form)


async def watch_status(client: Client, *, every_seconds: float, form: Form) -> None:
    """Shows the status again and again, until it is cancelled: in place at a terminal, else one after another."""
    if form is not Form.TABLE or not sys.stdout.isatty():
        while True:
            status = await client.admin.status()
            if form is Form.TABLE:
                print_status(status, form)
                say(flush=True)
            else:
                print_data(as_json(status), form, several=True)
            await asyncio.sleep(every_seconds)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            lines = fact_lines(_facts(await client.admin.status()))
            live.update(Text.from_ansi("\n".join(lines)), refresh=True)
            await asyncio.sleep(every_seconds)


def print_config(config: Config, shown: Shown, *, keys: Collection[str] = ()) -> None:
    """Keys with their values; none is all."""
    if shown.form in (ListForm.JSON, ListForm.YAML):
        print_data(as_json(config), shown.form)
        return
    listing = Listing(_CONFIG_FIELDS, shown, name=lambda entry: entry.key, data=as_json)
    for entry in config.entries:
        if not keys or entry.key in keys:
            listing.add(entry)
    listing.end()
    if shown.is_table and shown.columns is None and not shown.no_headers:
        say()
        say(f"generation  {config.generation}")


def print_plan(plan: RetentionPlan, shown: Shown) -> None:
    """As a table, and in sum."""
    if shown.form in (ListForm.JSON, ListForm.YAML):
        print_data(as_json(plan), shown.form)
        return
    listing = Listing(_REMOVAL_FIELDS, shown, name=lambda removal: removal.correlation_id, data=as_json)
    for removal in plan.removals:
        listing.add(removal)
    if plan.removals:
        listing.end()
    if not shown.is_table or shown.columns is not None or shown.no_headers:
        return
    count = f"more than {len(plan.removals)}" if plan.more else str(len(plan.removals))
    say(f"{count} would be removed now; those listed take {format_bytes(plan.bytes)} in {plan.files} files")
    if plan.counting:
        say("what batches take is being counted: until it is known, none is removed for that")


def _facts(status: ServiceStatus) -> Iterator[tuple[str, Cell]]:
    yield "service", f"jobworker {status.version}, up {format_seconds(status.uptime.ToNanoseconds() / 1e9)}"
    state = in_words(status) if status.state != SERVICE_STATE_SERVING else _state(status)
    yield "state", Styled(state, _STYLES.get(_state(status), ""))
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
        yield "problem", Styled(problem, "red")
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
        words = f"{config.last_error} (at {moment(config.last_error_at)}; the one before stays in force)"
        yield "problem", Styled(words, "red")


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


_CONFIG_FIELDS: list[Field[ConfigEntry]] = [
    Field(Column("KEY"), lambda entry: entry.key),
    Field(Column("VALUE", shrinks=True), lambda entry: _value(entry.value)),
    Field(Column("SOURCE", expendable=1), lambda entry: entry.source),
    Field(Column("A CHANGE TAKES", expendable=2), lambda entry: "effect at once" if entry.live else "a restart"),
]
_REMOVAL_FIELDS: list[Field[RetentionRemoval]] = [
    Field(Column("BATCH"), lambda removal: removal.correlation_id),
    Field(Column("USER", expendable=2), lambda removal: removal.user),
    Field(Column("ENDED AGO", right=True), lambda removal: format_seconds(removal.age.ToNanoseconds() / 1e9)),
    Field(Column("BYTES", right=True), lambda removal: format_bytes(removal.bytes)),
    Field(Column("FILES", right=True, expendable=1), lambda removal: str(removal.files)),
    Field(Column("WHY", shrinks=True), lambda removal: _WHY.get(removal.reason, str(removal.reason))),
]

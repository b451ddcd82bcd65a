"""`jobctl ls`: batches, newest first."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.durations import parse_time
from jobworker.ctl.exits import CtlError
from jobworker.ctl.options import ColumnsOption, ListForm, ListFormOption, NoHeadersOption, QuietOption, UtcOption

DEFAULT_LIMIT = 20
_PAGE_MOST = 1000  # ListBatchesRequest.page_size


class State(StrEnum):
    """BatchState, as people type it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def ls(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=0, help="At most N batches; 0 is all.")
    ] = DEFAULT_LIMIT,
    state: Annotated[
        list[State] | None, typer.Option("--state", "-s", case_sensitive=False, help="Only these; repeatable.")
    ] = None,
    user: Annotated[
        str, typer.Option("--user", "-u", help="Administrators: only this user's. Default: everyone's.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Only batches of this name.", show_default=False)] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only with this label; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only accepted in the last 2h, 3d, ... or since 2026-01-31T08:00.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only accepted before then, likewise.", show_default=False)
    ] = None,
    output: ListFormOption = ListForm.TABLE,
    columns: ColumnsOption = None,
    quiet: QuietOption = False,
    no_headers: NoHeadersOption = False,
    utc: UtcOption = False,  # noqa: ARG001 - its callback does it
) -> int:
    """List batches, newest first. JSON is a Batch a line.

    Where a terminal is too narrow, ACCEPTED and USER are left out and names are cut.
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.batches import batch_fields
        from jobworker.ctl.jobs import pairs
        from jobworker.ctl.listing import Listing, Shown
        from jobworker.ctl.output import as_json
        from jobworker.v1.job_pb2 import BatchState

        states = [BatchState.Value(f"BATCH_STATE_{one.name}") for one in state or ()]
        shown = Shown(output, columns, quiet, no_headers)
        count = 0
        async with shared.client() as client:
            batches = Listing(batch_fields(client.now), shown, name=lambda batch: batch.correlation_id, data=as_json)
            async for batch in client.list_batches(
                state=states,
                user=user,
                name=name,
                labels=pairs(label or [], "--label"),
                since=_time(since, "--since", now=client.now()),
                until=_time(until, "--until", now=client.now()),
                page_size=min(limit or _PAGE_MOST, _PAGE_MOST),
            ):
                batches.add(batch)
                count += 1
                if count == limit:
                    break
            batches.end()

    return shared.run(main())


def _time(text: str | None, option: str, *, now: float) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text, now=now)
    except ValueError as error:
        raise CtlError(f"{option}: {error}") from error

"""`jobctl ls`: batches, newest first."""

from enum import StrEnum
from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.options import Form, FormOption

DEFAULT_LIMIT = 20
_PAGE_MOST = 1000  # ListBatchesRequest.page_size


class State(StrEnum):
    """BatchState, as people type it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def ls(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=0, help="So many at most; 0 is all.")
    ] = DEFAULT_LIMIT,
    state: Annotated[
        list[State] | None, typer.Option("--state", "-s", case_sensitive=False, help="Only these; repeatable.")
    ] = None,
    user: Annotated[
        str, typer.Option("--user", "-u", help="Administrators: only this user's. Default: everyone's.")
    ] = "",
    output: FormOption = Form.TABLE,
) -> int:
    """List batches, newest first. JSON is a Batch a line."""
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import as_json, print_batches, print_json
        from jobworker.v1.job_pb2 import Batch, BatchState

        states = [BatchState.Value(f"BATCH_STATE_{one.name}") for one in state or ()]
        batches: list[Batch] = []
        count = 0
        async with shared.client() as client:
            async for batch in client.list_batches(
                state=states, user=user, page_size=min(limit or _PAGE_MOST, _PAGE_MOST)
            ):
                if output is Form.JSON:
                    print_json(as_json(batch))
                else:
                    batches.append(batch)
                count += 1
                if count == limit:
                    break
        if output is Form.TABLE:
            print_batches(batches)

    return shared.run(main())

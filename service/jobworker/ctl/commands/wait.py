"""`jobctl wait`: until a batch is final."""

from typing import TYPE_CHECKING

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import Exit
from jobworker.ctl.options import Form, FormOption, IdArgument, WaitTimeoutOption

if TYPE_CHECKING:
    from jobworker.client import Client
    from jobworker.v1.job_pb2 import Batch

_REFRESH_SECONDS = 0.5  # of the bar at a terminal: each wait answers after that with the batch as it is


def wait(
    context: typer.Context,
    correlation_id: IdArgument,
    timeout: WaitTimeoutOption = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Wait for the end of a batch; exit 0 only if all its jobs succeeded."""
    shared = Context.of(context)

    async def main() -> int:
        from jobworker.ctl.output import as_json, batch_state, counts_in_words, print_json, say
        from jobworker.ctl.progress import at_terminal
        from jobworker.v1.job_pb2 import BATCH_STATE_SUCCEEDED

        async with shared.client() as client:
            waiting = _watched if at_terminal() else _unseen
            batch = await waiting(client, correlation_id, timeout)
        if output is Form.JSON:
            print_json(as_json(batch))
        else:
            say(f"{batch_state(batch)} ({counts_in_words(batch)})")
        return Exit.OK if batch.state == BATCH_STATE_SUCCEEDED else Exit.NOT_SUCCEEDED

    return shared.run(main())


async def _unseen(client: "Client", correlation_id: str, timeout_seconds: float | None) -> "Batch":
    return await client.wait(correlation_id, timeout_seconds=timeout_seconds)


async def _watched(client: "Client", correlation_id: str, timeout_seconds: float | None) -> "Batch":
    """As `_unseen`, with a bar."""
    import asyncio

    from jobworker.ctl.progress import Progress
    from jobworker.v1.job_pb2 import BATCH_STATE_RUNNING

    now = asyncio.get_running_loop().time
    end = None if timeout_seconds is None else now() + timeout_seconds
    with Progress() as progress:
        progress.batch(batch := await client.get(correlation_id))
        while batch.state <= BATCH_STATE_RUNNING and (end is None or now() < end):
            left = _REFRESH_SECONDS if end is None else min(_REFRESH_SECONDS, max(0.0, end - now()))
            progress.batch(batch := await client.wait(correlation_id, timeout_seconds=left))
    return batch

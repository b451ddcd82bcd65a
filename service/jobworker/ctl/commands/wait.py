"""`jobctl wait`: until batches are final."""

import asyncio

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import Exit
from jobworker.ctl.options import Form, FormOption, IdsArgument, WaitTimeoutOption


def wait(
    context: typer.Context,
    batches: IdsArgument,
    timeout: WaitTimeoutOption = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Wait for the end of batches; exit 0 only if all their jobs succeeded, and 124 if the time was over before."""
    shared = Context.of(context)

    async def main() -> int:
        from jobworker.ctl.naming import resolve
        from jobworker.ctl.output import as_json, batch_state, counts_in_words, print_data, say
        from jobworker.ctl.progress import Progress, at_terminal
        from jobworker.v1.job_pb2 import BATCH_STATE_RUNNING, BATCH_STATE_SUCCEEDED

        async with shared.client() as client:
            ids = await resolve(client, batches, user=shared.user)
            several = len(ids) > 1
            with Progress() as progress:
                shown = progress.batch if at_terminal() and not several else None
                waits = [client.wait(one, timeout_seconds=timeout, progress=shown) for one in ids]
                ended = await asyncio.gather(*waits)
        for batch in ended:
            if output is not Form.TABLE:
                print_data(as_json(batch), output, several=several)
            else:
                words = f"{batch_state(batch)} ({counts_in_words(batch)})"
                say(f"{batch.correlation_id} {words}" if several else words)
        if any(batch.state <= BATCH_STATE_RUNNING for batch in ended):
            return Exit.TIMED_OUT
        return Exit.OK if all(batch.state == BATCH_STATE_SUCCEEDED for batch in ended) else Exit.NOT_SUCCEEDED

    return shared.run(main())

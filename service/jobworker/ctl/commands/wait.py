"""`jobctl wait`: until a batch is final."""

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import Exit
from jobworker.ctl.options import Form, FormOption, IdArgument, WaitTimeoutOption


def wait(
    context: typer.Context,
    correlation_id: IdArgument,
    timeout: WaitTimeoutOption = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Wait for the end of a batch; exit 0 only if all its jobs succeeded."""
    shared = Context.of(context)

    async def main() -> int:
        from jobworker.ctl.output import as_json, batch_state, counts_in_words, print_data, say
        from jobworker.ctl.progress import Progress, at_terminal
        from jobworker.v1.job_pb2 import BATCH_STATE_SUCCEEDED

        async with shared.client() as client:
            with Progress() as progress:
                told = progress.batch if at_terminal() else None
                batch = await client.wait(correlation_id, timeout_seconds=timeout, progress=told)
        if output is not Form.TABLE:
            print_data(as_json(batch), output)
        else:
            say(f"{batch_state(batch)} ({counts_in_words(batch)})")
        return Exit.OK if batch.state == BATCH_STATE_SUCCEEDED else Exit.NOT_SUCCEEDED

    return shared.run(main())

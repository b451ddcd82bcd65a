"""`jobctl cancel`: end a batch, or some of its jobs."""

from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.durations import parse_seconds
from jobworker.ctl.options import Form, FormOption, IdArgument, JobsOption


def cancel(
    context: typer.Context,
    correlation_id: IdArgument,
    job: JobsOption = None,
    grace: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Between SIGTERM and SIGKILL. Default: the service's.", show_default=False),
    ] = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Cancel a batch, or some of its jobs.

    Returns once they have ended. The same when repeated, or when the batch was over before.
    """
    shared = Context.of(context)
    try:
        grace_seconds = None if grace is None else parse_seconds(grace)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--grace") from error

    async def main() -> None:
        from jobworker.ctl.output import as_json, batch_state, counts_in_words, print_data, say

        async with shared.client() as client:
            batch = await client.cancel(correlation_id, job_index=job or (), grace_seconds=grace_seconds)
        if output is not Form.TABLE:
            print_data(as_json(batch), output)
        else:
            say(f"{batch_state(batch)} ({counts_in_words(batch)})")

    return shared.run(main())

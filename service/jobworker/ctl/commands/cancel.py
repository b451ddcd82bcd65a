"""`jobctl cancel`: end batches, or some jobs of one."""

from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.durations import parse_seconds
from jobworker.ctl.exits import CtlError
from jobworker.ctl.options import Form, FormOption, IdsArgument, JobsOption


def cancel(
    context: typer.Context,
    batches: IdsArgument,
    job: JobsOption = None,
    grace: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Between SIGTERM and SIGKILL. Default: the service's.", show_default=False),
    ] = None,
    output: FormOption = Form.TABLE,
) -> int:
    """Cancel batches, or some jobs of one.

    Returns once they have ended. The same when repeated, or when a batch was over before.
    """
    shared = Context.of(context)
    try:
        grace_seconds = None if grace is None else parse_seconds(grace)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--grace") from error

    async def main() -> None:
        from jobworker.ctl.naming import resolve
        from jobworker.ctl.output import as_json, batch_state, counts_in_words, print_data, say

        async with shared.client() as client:
            ids = await resolve(client, batches, user=shared.user, only_one=True)
            several = len(ids) > 1
            if several and job:
                raise CtlError("--job is for one batch")
            for one in ids:
                batch = await client.cancel(one, job_index=job or (), grace_seconds=grace_seconds)
                if output is not Form.TABLE:
                    print_data(as_json(batch), output, several=several)
                else:
                    words = f"{batch_state(batch)} ({counts_in_words(batch)})"
                    say(f"{one} {words}" if several else words)

    return shared.run(main())

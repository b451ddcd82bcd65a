"""`jobctl get`: a batch and its jobs as they are now."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.options import Form, FormOption, IdArgument, JobsOption

if TYPE_CHECKING:
    from jobworker.v1.query_pb2 import SearchJobResponse

DEFAULT_LIMIT = 100


def get(
    context: typer.Context,
    correlation_id: IdArgument,
    job: JobsOption = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=0, help="Jobs in the table; 0 is all. JSON has all.")
    ] = DEFAULT_LIMIT,
    output: FormOption = Form.TABLE,
) -> int:
    """Show a batch and how its jobs ended."""
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import as_json, print_batch, print_jobs, print_json, say

        async with shared.client() as client:
            batch = await client.get(correlation_id)
            wanted = job or range(batch.job_count)
            if output is Form.TABLE and limit:
                wanted = wanted[:limit]
            if job and max(job) >= batch.job_count:
                raise CtlError(f"the batch has no job {max(job)}, only {batch.job_count} jobs", Exit.NOT_FOUND)
            whole = len(wanted) == batch.job_count
            responses: list[SearchJobResponse] = [
                response
                async for response in client.search(
                    correlation_id, job_index=() if whole else list(wanted), omit_log=True, snapshot=True
                )
            ]
        if output is Form.JSON:
            print_json(
                {**as_json(batch), "jobs": [{**as_json(r.job), "result": r.result} for r in responses]},
            )
            return
        print_batch(batch)
        say()
        print_jobs(responses)
        left = (len(job) if job else batch.job_count) - len(responses)
        if left > 0:
            say(f"... and {left} more: jobctl get -n 0 {correlation_id}")

    return shared.run(main())

"""`jobctl get`: a batch and its jobs as they are now."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.options import (
    ColumnsOption,
    IdArgument,
    JobsOption,
    ListForm,
    ListFormOption,
    NoHeadersOption,
    QuietOption,
    UtcOption,
)

if TYPE_CHECKING:
    from jobworker.v1.query_pb2 import SearchJobResponse

DEFAULT_LIMIT = 100


def get(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    correlation_id: IdArgument,
    job: JobsOption = None,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", metavar="N", min=0, help="Jobs in a table; 0 is all. Other forms have all."),
    ] = DEFAULT_LIMIT,
    output: ListFormOption = ListForm.TABLE,
    columns: ColumnsOption = None,
    quiet: QuietOption = False,
    no_headers: NoHeadersOption = False,
    utc: UtcOption = False,  # noqa: ARG001 - its callback does it
) -> int:
    """Show a batch and how its jobs ended.

    json and yaml are the Batch with its jobs; jsonl is a Job a line, name is the jobs' indexes.
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.batches import batch_facts, job_fields
        from jobworker.ctl.listing import Listing, Shown
        from jobworker.ctl.output import as_json, note, print_data, print_facts, say

        shown = Shown(output, columns, quiet, no_headers)

        async with shared.client() as client:
            batch = await client.get(correlation_id)
            wanted = job or range(batch.job_count)
            jobs = Listing(job_fields(client.now), shown, name=lambda found: str(found.job.index), data=_job_data)
            if shown.is_table and limit:
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
            now = client.now()
        if shown.form in (ListForm.JSON, ListForm.YAML):
            print_data({**as_json(batch), "jobs": [_job_data(response) for response in responses]}, shown.form)
            return
        if shown.is_table and columns is None:
            print_facts(batch_facts(batch, now))
            say()
        for response in responses:
            jobs.add(response)
        jobs.end()
        left = (len(job) if job else batch.job_count) - len(responses)
        if left > 0 and shown.is_table:
            show = note if columns or no_headers else say  # a script reads rows alone
            show(f"... and {left} more: jobctl get -n 0 {correlation_id}")

    return shared.run(main())


def _job_data(found: "SearchJobResponse") -> dict[str, object]:
    from jobworker.ctl.output import as_json

    return {**as_json(found.job), "result": found.result}

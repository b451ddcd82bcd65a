"""`jobctl logs`: what the jobs of a batch printed, or print."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.options import (
    IdsArgument,
    JobsOption,
    ListForm,
    LogForm,
    LogFormOption,
    OnlyStream,
    PrefixOption,
    RawOption,
)

if TYPE_CHECKING:
    from jobworker.client import Client


def logs(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    batches: IdsArgument,
    job: JobsOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the logs are complete.")] = False,
    tail: Annotated[
        int, typer.Option("--tail", "-n", metavar="N", min=0, help="Only the last N lines of what there is; 0: all.")
    ] = 0,
    stream: Annotated[
        OnlyStream, typer.Option("--stream", help="Of jobs with separate outputs: which.")
    ] = OnlyStream.ALL,
    prefix: PrefixOption = None,
    raw: RawOption = False,
    output: LogFormOption = LogForm.BYTES,
) -> int:
    """Print what jobs wrote, byte for byte; at a terminal, control characters are written out.

    Of several batches, one after another. Standard error of jobs with separate outputs goes to standard error. A
    connection that breaks is taken up where it was. -o json prints the pieces, a LogChunk a line.

    \b
    jobctl logs -f @last
    jobctl logs -j 17 --tail 20 019312d4-5c00-7abc-8def-0123456789ab
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.naming import resolve
        from jobworker.ctl.output import as_json, note, note_retry, print_data
        from jobworker.ctl.sink import LogSink

        async def show(client: "Client", batch: str) -> None:
            job_count = (await client.get(batch)).job_count
            if job and max(job) >= job_count:
                raise CtlError(f"the batch has no job {max(job)}, only {job_count} jobs", Exit.NOT_FOUND)
            several = (len(job) if job else job_count) > 1
            sink = LogSink(
                stdout=sys.stdout,
                stderr=sys.stderr,
                prefix=several and sys.stdout.isatty() if prefix is None else prefix,
                raw=raw,
                only=stream,
                note=note,
            )
            async for chunk in client.follow(
                batch, job_index=job or (), snapshot=not follow, tail_lines=tail, notice=note_retry
            ):
                if output is LogForm.JSON:
                    print_data(as_json(chunk), ListForm.JSONL)
                else:
                    sink.take(chunk)
            sink.close()

        async with shared.client() as client:
            for batch in await resolve(client, batches, user=shared.user):
                await show(client, batch)

    return shared.run(main())

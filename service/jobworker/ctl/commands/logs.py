"""`jobctl logs`: what the jobs of a batch printed, or print."""

import sys
from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.options import (
    IdArgument,
    JobsOption,
    ListForm,
    LogForm,
    LogFormOption,
    OnlyStream,
    PrefixOption,
    RawOption,
)


def logs(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    correlation_id: IdArgument,
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

    Jobs with separate outputs write to ours as they did. A connection that breaks is taken up where it was. -o json
    prints the pieces, a LogChunk a line.

    \b
    jobctl logs -f 019312d4-5c00-7abc-8def-0123456789ab
    jobctl logs -j 17 --tail 20 019312d4-5c00-7abc-8def-0123456789ab
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import as_json, note, note_retry, print_data
        from jobworker.ctl.sink import LogSink

        async with shared.client() as client:
            job_count = (await client.get(correlation_id)).job_count
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
                correlation_id, job_index=job or (), snapshot=not follow, tail_lines=tail, notice=note_retry
            ):
                if output is LogForm.JSON:
                    print_data(as_json(chunk), ListForm.JSONL)
                else:
                    sink.take(chunk)
            sink.close()

    return shared.run(main())

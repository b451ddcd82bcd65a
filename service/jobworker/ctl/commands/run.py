"""`jobctl run`: hand in a batch, show what its jobs print, and exit as they did."""

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import typer

from jobworker.ctl import options as o
from jobworker.ctl.context import Context
from jobworker.ctl.exits import Exit

if TYPE_CHECKING:
    from jobworker.client import Client
    from jobworker.ctl.submission import Submission
    from jobworker.v1.query_pb2 import LogChunk, LogEnd

_JOBS_NAMED = 10  # of those that did not succeed, on stderr


def run(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    command: o.CommandArgument = None,
    file: o.FileOption = None,
    json_lines: o.JsonLinesOption = None,
    parallelism: o.ParallelismOption = 0,
    fail_fast: o.FailFastOption = False,
    name: o.NameOption = "",
    label: o.LabelOption = None,
    timeout: o.TimeoutOption = None,
    env: o.EnvOption = None,
    cwd: o.CwdOption = "",
    separate: o.SeparateOption = False,
    log_policy: o.LogPolicyOption = None,
    stdin: o.StdinOption = None,
    correlation_id: o.NameIdOption = None,
    prefix: o.PrefixOption = None,
    raw: o.RawOption = False,
    output: o.LogFormOption = o.LogForm.BYTES,
) -> int:
    """Submit a batch, show its output live, and exit as its job did.

    The exit code is the job's, or 128 plus the signal that ended it; of several jobs, the first one (by index) that is
    not 0. Jobs without either, such as lost ones, count as 1. The first Ctrl-C cancels the batch and waits for its end,
    the second leaves at once. At a terminal, control characters in what jobs print are written out. -o json prints
    the pieces of the logs, a LogChunk a line.

    \b
    jobctl run 'echo hello; exit 3'
    jobctl run --separate -- gcc -c main.c
    jobctl run -p 4 -f commands.txt
    """
    shared = Context.of(context)

    async def main() -> int:
        from jobworker.ctl.submission import Submission

        submission = Submission(
            command=command or [],
            file=file,
            json_lines=json_lines,
            parallelism=parallelism,
            fail_fast=fail_fast,
            name=name,
            labels=label or [],
            timeout_seconds=timeout,
            env=env or [],
            cwd=cwd,
            separate=separate,
            log_policy=log_policy,
            stdin=stdin,
            correlation_id=correlation_id,
        )
        async with shared.client() as client:
            return await _Run(client, prefix=prefix, raw=raw, form=output).through(submission)

    return shared.run(main())


class _Run:
    """One batch from its submission to its end."""

    def __init__(self, client: "Client", *, prefix: bool | None, raw: bool, form: o.LogForm) -> None:
        self._client = client
        self._prefix = prefix
        self._raw = raw
        self._form = form
        self._id = ""
        self._codes: dict[int, int] = {}  # jobs that did not succeed
        self._cancelling: asyncio.Task[None] | None = None

    async def through(self, submission: "Submission") -> int:
        from jobworker.ctl.output import note

        response = await submission.send(self._client)
        self._id = response.correlation_id
        several = response.job_count > 1
        if several and sys.stderr.isatty():
            note(f"batch {self._id}: {response.job_count} jobs")
        loop, here = asyncio.get_running_loop(), asyncio.current_task()
        assert here is not None  # noqa: S101 - a coroutine runs in a task
        loop.add_signal_handler(signal.SIGINT, self._interrupt, here)
        try:
            await self._show(several=several)
            if self._cancelling is not None:
                await self._cancelling
        except asyncio.CancelledError:
            note(f"left; the batch is {self._id}")
            return Exit.INTERRUPTED
        except BrokenPipeError:
            note(f"nobody reads the output any more; the batch goes on: {self._id}")
            raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        await self._name_the_failed(several=several)
        if self._cancelling is not None:
            return Exit.INTERRUPTED
        return self._codes[min(self._codes)] if self._codes else Exit.OK

    async def _show(self, *, several: bool) -> None:
        """Follows every log to its end."""
        from jobworker.ctl.output import as_json, note, note_retry, print_data
        from jobworker.ctl.sink import LogSink

        prefix = several and sys.stdout.isatty() if self._prefix is None else self._prefix
        sink = LogSink(stdout=sys.stdout, stderr=sys.stderr, prefix=prefix, raw=self._raw, note=note)
        async for chunk in self._client.follow(self._id, notice=note_retry):
            self._learn(chunk)
            if self._form is o.LogForm.JSON:
                print_data(as_json(chunk), o.ListForm.JSONL)
            else:
                sink.take(chunk)
        sink.close()

    def _learn(self, chunk: "LogChunk") -> None:
        if chunk.HasField("end"):
            code = exit_code(chunk.end)
            if code:
                self._codes[chunk.job_index] = code

    async def _name_the_failed(self, *, several: bool) -> None:
        """Says what became of jobs whose end the exit code alone does not tell."""
        from jobworker.ctl.output import note

        failed = sorted(self._codes)
        if not failed:
            return
        async for response in self._client.search(
            self._id, job_index=failed[:_JOBS_NAMED], omit_log=True, snapshot=True
        ):
            if several or not response.job.HasField("exit_code"):
                note(f"job {response.job.index}: {response.result}")
        if len(failed) > _JOBS_NAMED:
            note(f"... and {len(failed) - _JOBS_NAMED} more that did not succeed: jobctl get {self._id}")

    def _interrupt(self, here: asyncio.Task[int]) -> None:
        from jobworker.ctl.output import note

        if self._cancelling is not None:
            here.cancel()
            return
        note("cancelling the batch; Ctrl-C again leaves at once")
        self._cancelling = asyncio.ensure_future(self._cancel())

    async def _cancel(self) -> None:
        from jobworker.client import JobworkerError
        from jobworker.ctl.output import note

        try:
            await self._client.cancel(self._id)
        except JobworkerError as error:  # the batch goes on, and so do we
            note(f"it could not be cancelled: {error}")


def exit_code(end: "LogEnd") -> int:
    """What a shell would have as `$?` after the job."""
    from jobworker.v1.job_pb2 import JOB_STATE_SUCCEEDED

    if end.state == JOB_STATE_SUCCEEDED:
        return 0
    if end.HasField("signal"):
        return 128 + end.signal
    # A job that caught the SIGTERM of its timeout may have exited with 0, and did not succeed.
    return end.exit_code or Exit.NOT_SUCCEEDED

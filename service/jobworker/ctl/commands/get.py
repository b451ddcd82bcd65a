"""`jobctl get`: batches and their jobs as they are now."""

from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.options import (
    ColumnsOption,
    IdsArgument,
    JobsOption,
    ListForm,
    ListFormOption,
    NoHeadersOption,
    QuietOption,
    UtcOption,
)

if TYPE_CHECKING:
    from jobworker.client import Client
    from jobworker.ctl.listing import Shown
    from jobworker.v1.query_pb2 import SearchJobResponse

DEFAULT_LIMIT = 100


class State(StrEnum):
    """JobState, as people type it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    SKIPPED = "skipped"


def get(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    batches: IdsArgument,
    job: JobsOption = None,
    state: Annotated[
        list[State] | None,
        typer.Option("--state", "-s", case_sensitive=False, help="Only jobs in this state; repeatable."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=0, help="Jobs in a table; 0 is all. Other forms have all.")
    ] = DEFAULT_LIMIT,
    output: ListFormOption = ListForm.TABLE,
    columns: ColumnsOption = None,
    quiet: QuietOption = False,
    no_headers: NoHeadersOption = False,
    utc: UtcOption = False,  # noqa: ARG001 - its callback does it
) -> int:
    """Show batches and how their jobs ended.

    json and yaml are the Batch with its jobs; jsonl is a Job a line, name is the jobs' indexes.

    \b
    jobctl get @last
    jobctl get --state failed 019312d4
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.listing import Shown
        from jobworker.ctl.naming import resolve
        from jobworker.ctl.output import say

        shown = Shown(output, columns, quiet, no_headers)
        async with shared.client() as client:
            ids = await resolve(client, batches, user=shared.user)
            for position, one in enumerate(ids):
                if position and shown.is_table:
                    say()
                await _Look(client, one, jobs=job or (), states=state or (), limit=limit).show(
                    shown, several=len(ids) > 1
                )

    return shared.run(main())


class _Look:
    """At one batch."""

    def __init__(
        self, client: "Client", batch: str, *, jobs: Collection[int], states: Collection[State], limit: int
    ) -> None:
        self._client = client
        self._id = batch
        self._jobs = jobs
        self._states = states
        self._limit = limit

    async def show(self, shown: "Shown", *, several: bool) -> None:
        from jobworker.ctl.batches import batch_facts, job_fields
        from jobworker.ctl.listing import Listing
        from jobworker.ctl.output import as_json, note, print_data, print_facts, say

        now = self._client.now
        jobs = Listing(job_fields(now), shown, name=lambda found: str(found.job.index), data=_job_data)
        batch = await self._client.get(self._id)
        responses, more = await self._found(batch.job_count, at_most=self._limit if shown.is_table else 0)
        if shown.form in (ListForm.JSON, ListForm.YAML):
            found = {**as_json(batch), "jobs": [_job_data(response) for response in responses]}
            print_data(found, shown.form, several=several)
            return
        if shown.is_table and shown.columns is None:
            print_facts(batch_facts(batch, now()))
            say()
        for response in responses:
            jobs.add(response)
        jobs.end()
        if more:
            tell = note if shown.columns or shown.no_headers else say  # a script reads rows alone
            tell(f"... and {more} more: jobctl get -n 0 {self._id}")

    async def _found(self, job_count: int, *, at_most: int) -> "tuple[list[SearchJobResponse], str]":
        """Those to show, 0 is all, and how many more there are, in words: empty is none."""
        from jobworker.v1.job_pb2 import JobState

        if self._jobs and max(self._jobs) >= job_count:
            raise CtlError(f"the batch has no job {max(self._jobs)}, only {job_count} jobs", Exit.NOT_FOUND)
        wanted = list(self._jobs) or range(job_count)
        # Which jobs are in a state the service alone knows; of others no more are asked for than are shown.
        asked = wanted[:at_most] if at_most and not self._states else wanted
        responses: list[SearchJobResponse] = []
        async for response in self._client.search(
            self._id,
            job_index=() if len(asked) == job_count else list(asked),
            state=[JobState.Value(f"JOB_STATE_{state.name}") for state in self._states],
            omit_log=True,
            snapshot=True,
        ):
            if at_most and len(responses) == at_most:
                return responses, "some"
            responses.append(response)
        more = 0 if self._states else len(wanted) - len(responses)
        return responses, str(more) if more > 0 else ""


def _job_data(found: "SearchJobResponse") -> dict[str, object]:
    from jobworker.ctl.output import as_json

    return {**as_json(found.job), "result": found.result}

"""`jobctl submit`: hand in a batch and go."""

import typer

from jobworker.ctl import options as o
from jobworker.ctl.context import Context


def submit(  # noqa: PLR0917 - typer passes options by name
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
    output: o.FormOption = o.Form.TABLE,
) -> int:
    """Submit a batch and print its CorrelationID.

    The batch is on the service's disk then, and runs whether this client lives or not.

    \b
    jobctl submit 'make test 2>&1 | tail'
    jobctl submit -- rsync -a /from/ /to/
    jobctl submit -p 8 --fail-fast -f commands.txt
    generate | jobctl submit -f -
    """
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import as_json, print_data, say
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
            response = await submission.send(client)
        if output is not o.Form.TABLE:
            print_data(as_json(response), output)
        else:
            say(response.correlation_id)

    return shared.run(main())

"""What `submit` and `run` have in common: a batch from the options, and sending it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobworker.ctl.exits import CtlError
from jobworker.ctl.jobs import JobLines, Template, pairs
from jobworker.ctl.output import note
from jobworker.ctl.progress import Progress
from jobworker.ctl.source import Lines
from jobworker.v1.job_pb2 import BatchOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jobworker.client import Client
    from jobworker.ctl.options import OnMore
    from jobworker.v1.schedule_pb2 import JobRequest, JobResponse


@dataclass(frozen=True)
class Submission:
    """The options of `submit` and `run`, as they were given."""

    command: list[str]
    file: Path | None
    json_lines: bool | None
    parallelism: int
    fail_fast: bool
    name: str
    labels: list[str]
    timeout_seconds: float | None
    env: list[str]
    cwd: str
    separate: bool
    log_policy: OnMore | None
    stdin: Path | None
    correlation_id: str | None

    async def send(self, client: Client) -> JobResponse:
        """Submits it.

        Raises:
            CtlError: the options or the file are wrong.
            JobworkerError: the service refuses.
        """
        options = BatchOptions(
            name=self.name,
            parallelism=self.parallelism,
            fail_fast=self.fail_fast,
            labels=pairs(self.labels, "--label"),
        )
        with Progress() as progress:
            response = await client.submit(
                self._jobs(progress.sent), options=options, correlation_id=self.correlation_id
            )
        if response.result == "DUPLICATE" and self.correlation_id is not None:
            note(f"{response.correlation_id} was accepted before, with the same content")
        return response

    def _jobs(self, sent: Callable[[int], None]) -> JobLines | list[JobRequest]:
        if bool(self.command) == (self.file is not None):
            raise CtlError("give a command, or a file of them by -f")
        template = Template(
            env=pairs(self.env, "--env", ours=os.environ.get),
            cwd=self.cwd,
            stdin=self._input(),
            timeout_seconds=self.timeout_seconds,
            separate=self.separate,
            log_policy=self.log_policy,
        )
        if self.file is None:
            return [template.command(self.command)]
        return JobLines(Lines(str(self.file)), template, json_lines=self.json_lines, sent=sent)

    def _input(self) -> bytes:
        if self.stdin is None:
            return b""
        if str(self.stdin) == "-":
            if str(self.file) == "-":
                raise CtlError("--stdin - and -f - both want standard input")
            return sys.stdin.buffer.read()
        try:
            return self.stdin.read_bytes()
        except OSError as error:
            raise CtlError(f"{self.stdin}: {error.strerror}") from error

"""Job requests from what the user typed: a command, or the lines of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from google.protobuf import json_format

from jobworker.ctl.exits import CtlError
from jobworker.v1.job_pb2 import LOG_POLICY_UNSPECIFIED, OUTPUT_MODE_SEPARATE, OUTPUT_MODE_UNSPECIFIED, LogPolicy
from jobworker.v1.schedule_pb2 import JobRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jobworker.ctl.options import OnMore
    from jobworker.ctl.source import Lines


@dataclass(frozen=True)
class Template:
    """What the options say of each job; a JobRequest in JSON may say otherwise for itself."""

    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    stdin: bytes = b""
    timeout_seconds: float | None = None
    separate: bool = False
    log_policy: OnMore | None = None

    def command(self, words: list[str]) -> JobRequest:
        """One argument is a shell command line, several are a program and its arguments."""
        return self.fill(JobRequest(command=words[0]) if len(words) == 1 else JobRequest(argv=words))

    def fill(self, job: JobRequest) -> JobRequest:
        """Sets what the job leaves open."""
        for key, value in self.env.items():
            if key not in job.env:
                job.env[key] = value
        job.cwd = job.cwd or self.cwd
        job.stdin = job.stdin or self.stdin
        if self.timeout_seconds is not None and not job.HasField("timeout"):
            job.timeout.FromTimedelta(timedelta(seconds=self.timeout_seconds))
        if self.separate and job.output == OUTPUT_MODE_UNSPECIFIED:
            job.output = OUTPUT_MODE_SEPARATE
        if self.log_policy is not None and job.log_policy == LOG_POLICY_UNSPECIFIED:
            job.log_policy = LogPolicy.Value(f"LOG_POLICY_{self.log_policy.name}")
        return job


class JobLines:
    """The jobs in a file, one by one as they are asked for; from the start each time (see `Lines`)."""

    def __init__(
        self, lines: Lines, template: Template, *, json_lines: bool | None, sent: Callable[[int], None] | None = None
    ) -> None:
        """`json_lines` None: found out by the first line. `sent` is told how many jobs were taken so far."""
        self._lines = lines
        self._template = template
        self._json_lines = json_lines
        self._sent = sent

    async def __aiter__(self) -> AsyncIterator[JobRequest]:
        json_lines, count = self._json_lines, 0
        async for number, line in self._lines:
            text = self._text(number, line)
            if not text or text.startswith("#"):
                continue
            if json_lines is None:
                json_lines = text[0] == "{" and text[1:].lstrip()[:1] in ('"', "}")
            yield self._template.fill(self._parse(number, text) if json_lines else JobRequest(command=text))
            count += 1
            if self._sent is not None:
                self._sent(count)
        if not count:
            raise CtlError(f"{self._lines.name}: holds no command")

    def _text(self, number: int, line: bytes) -> str:
        try:
            return line.decode().strip()
        except UnicodeDecodeError as error:
            raise CtlError(f"{self._lines.name}:{number}: is not UTF-8: {error.reason}") from error

    def _parse(self, number: int, text: str) -> JobRequest:
        try:
            return json_format.Parse(text, JobRequest())
        except json_format.ParseError as error:
            words = " ".join(str(error).split())
            raise CtlError(f"{self._lines.name}:{number}: is not a JobRequest: {words}") from error


def pairs(texts: list[str], option: str, *, ours: Callable[[str], str | None] | None = None) -> dict[str, str]:
    """The KEY=VALUE of a repeatable option; with `ours`, which looks in the environment, KEY alone is taken from there.

    Raises:
        CtlError: one is not of this form.
    """
    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key and not equals and ours is not None:
            found = ours(key)
            if found is None:
                raise CtlError(f"{option} {key}: is not in the environment")
            value, equals = found, "="
        if not key or not equals:
            raise CtlError(f"{option} {text}: is not KEY=VALUE")
        result[key] = value
    return result

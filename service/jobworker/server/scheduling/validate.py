"""Says what is wrong with a job before it is accepted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from jobworker.server.errors import InvalidRequestError, Violation
from jobworker.server.model import BatchOptions, JobSpec

# One argument or environment string: MAX_ARG_STRLEN, 32 pages with its NUL (execve(2)).
MAX_ARGUMENT_BYTES = 32 * 4096 - 1
# All of them with their pointers: a quarter of the stack's soft limit, 8 MiB for jobs (execve(2)), less what the
# executor adds: the minimum environment, the marks, `/bin/sh -c`, and the program's own path.
MAX_COMMAND_BYTES = 2 * 1024 * 1024 - 16384
# Arguments and variables. The kernel would take 250,000 and more, if they were empty.
MAX_STRINGS = 65_536
MAX_PATH_BYTES = 4095
MAX_NAME_CHARACTERS = 255
MAX_LABELS = 64
MAX_TIMEOUT_SECONDS = 366 * 86400
MAX_PARALLELISM = 100_000
_MAX_VIOLATIONS = 100
RESERVED_PREFIX = "JOBWORKER_"


def check_job(spec: JobSpec, *, prefix: str = "") -> None:
    """Raises InvalidRequestError with every violation, a hundred at most; field paths begin with `prefix`
    (`jobs[17].`)."""
    violations = [Violation(prefix + field, text) for field, text in islice(_job(spec), _MAX_VIOLATIONS)]
    if violations:
        raise InvalidRequestError(*violations)


def check_options(options: BatchOptions, *, prefix: str = "") -> None:
    """Raises InvalidRequestError with every violation."""
    violations = [Violation(f"{prefix}batch.{field}", text) for field, text in _options(options)]
    if violations:
        raise InvalidRequestError(*violations)


def _job(spec: JobSpec) -> Iterator[tuple[str, str]]:
    if spec.command and spec.argv:
        yield "argv", "cannot be given together with command"
    elif not spec.command.strip() and not spec.argv:
        yield "command", "is empty; give command or argv"
    elif spec.argv and not spec.argv[0]:
        yield "argv[0]", "is empty; it names the program"
    yield from _argument("command", spec.command)
    for i, argument in enumerate(spec.argv):
        yield from _argument(f"argv[{i}]", argument)
    yield from _environment(spec.env)
    total = sum(len(a.encode()) + 9 for a in (spec.command, *spec.argv))
    total += sum(len(k.encode()) + len(v.encode()) + 10 for k, v in spec.env.items())
    if total > MAX_COMMAND_BYTES:
        field = "argv" if spec.argv else "command"
        yield field, f"is too large for the kernel, with env: {total} bytes, at most {MAX_COMMAND_BYTES}"
    yield from _folder(spec.cwd)
    if spec.timeout_seconds is not None and not 0 < spec.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        yield "timeout", f"must be above 0 and at most {MAX_TIMEOUT_SECONDS} s"
    yield from _name("name", spec.name)
    for field in spec.limits.__slots__:
        value = getattr(spec.limits, field)
        if value is not None and not 0 < value < 1 << 63:
            yield f"limits.{_PROTO_LIMITS.get(field, field)}", "must be above 0 and below 2^63"


_PROTO_LIMITS = {"cpu_seconds": "cpu_time"}


def _argument(field: str, value: str) -> Iterator[tuple[str, str]]:
    if "\0" in value:
        yield field, "contains a NUL byte"
    elif len(value) > MAX_ARGUMENT_BYTES // 4 and (size := len(value.encode())) > MAX_ARGUMENT_BYTES:
        yield field, f"is too large for the kernel: {size} bytes, at most {MAX_ARGUMENT_BYTES}"


def _folder(cwd: str) -> Iterator[tuple[str, str]]:
    if "\0" in cwd:
        yield "cwd", "contains a NUL byte"
    elif cwd and not cwd.startswith("/"):
        yield "cwd", "is not an absolute path"
    elif len(cwd.encode()) > MAX_PATH_BYTES:
        yield "cwd", f"is longer than {MAX_PATH_BYTES} bytes"


def _environment(env: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            yield f"env[{name!r}]", "is not a variable's name"
        elif name.startswith(RESERVED_PREFIX):
            yield f"env[{name!r}]", f"is reserved: the service sets {RESERVED_PREFIX}*"
        elif "\0" in value:
            yield f"env[{name!r}]", "contains a NUL byte"
        elif len(name.encode()) + len(value.encode()) + 1 > MAX_ARGUMENT_BYTES:
            yield f"env[{name!r}]", f"is too large for the kernel: at most {MAX_ARGUMENT_BYTES} bytes with its name"


def _name(field: str, value: str) -> Iterator[tuple[str, str]]:
    if len(value) > MAX_NAME_CHARACTERS:
        yield field, f"is longer than {MAX_NAME_CHARACTERS} characters"
    elif not value.isprintable():
        yield field, "contains characters that cannot be printed"


def _options(options: BatchOptions) -> Iterator[tuple[str, str]]:
    yield from _name("name", options.name)
    if options.parallelism is not None and not 0 < options.parallelism <= MAX_PARALLELISM:
        yield "parallelism", f"must be between 1 and {MAX_PARALLELISM}"
    if len(options.labels) > MAX_LABELS:
        yield "labels", f"has more than {MAX_LABELS} entries"
    for key, value in options.labels.items():
        if not 0 < len(key) <= 63 or not key.isprintable():
            yield f"labels[{key!r}]", "is not a key of 1 to 63 printable characters"
        elif len(value) > 255 or not value.isprintable():
            yield f"labels[{key!r}]", "has a value that is not 0 to 255 printable characters"

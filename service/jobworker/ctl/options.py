"""Arguments and options that several commands take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jobworker.ctl.context import use_utc
from jobworker.ctl.durations import parse_seconds


class Form(StrEnum):
    """How one result is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class ListForm(StrEnum):
    """How results of one kind are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"
    NAME = "name"


class LogForm(StrEnum):
    """How logs are printed."""

    BYTES = "table"
    JSON = "json"


class OnlyStream(StrEnum):
    """Which output of jobs with separate ones."""

    ALL = "all"
    STDOUT = "stdout"
    STDERR = "stderr"


class OnMore(StrEnum):
    """What becomes of output beyond the limit of a job's logs."""

    END = "end"
    TRUNCATE_TAIL = "truncate-tail"
    TRUNCATE_HEAD = "truncate-head"


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _utc(wanted: bool) -> bool:
    if wanted:
        use_utc()
    return wanted


_BATCH = (
    "its CorrelationID, an unambiguous beginning of that, its name, @last for your newest, or @-2 for the one before"
)
IdsArgument = Annotated[list[str], typer.Argument(metavar="BATCH...", help=f"Each by {_BATCH}.", show_default=False)]
FormOption = Annotated[
    Form,
    typer.Option("--output", "-o", help="For people, or for programs (proto3 JSON, or YAML of it).", show_default=True),
]
LogFormOption = Annotated[
    LogForm, typer.Option("--output", "-o", help="The bytes of logs, or LogChunk messages in JSON, one a line.")
]
ListFormOption = Annotated[
    ListForm,
    typer.Option(
        "--output",
        "-o",
        help="wide: all columns, uncut. json, jsonl (one a line), yaml: for programs. name: what identifies each.",
        show_default=True,
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option("--columns", metavar="NAME,...", help="These columns, in this order.", show_default=False),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only what identifies each: as -o name.", show_default=False)
]
NoHeadersOption = Annotated[
    bool, typer.Option("--no-headers", help="A table without the names of its columns.", show_default=False)
]
UtcOption = Annotated[
    bool, typer.Option("--utc", help="Show times in UTC instead of your time zone.", callback=_utc, show_default=False)
]
JobsOption = Annotated[
    list[int] | None,
    typer.Option("--job", "-j", metavar="N", min=0, help="Only this job, by its index; repeatable. Default: all."),
]
PrefixOption = Annotated[
    bool | None,
    typer.Option(
        "--prefix/--no-prefix",
        help="Begin each line with its job's index. Default: at a terminal, when there are several jobs.",
        show_default=False,
    ),
]

RawOption = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="At a terminal too, the bytes as they are, control characters and all. Elsewhere they always are.",
        show_default=False,
    ),
]

CommandArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[--] COMMAND...",
        help="One argument is a shell command line; several are a program and its arguments.",
        show_default=False,
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A command a line (blank lines and # comments are skipped), or a JobRequest in JSON a line; - is stdin.",
        show_default=False,
    ),
]
JsonLinesOption = Annotated[
    bool | None,
    typer.Option(
        "--json-lines/--command-lines",
        help='What FILE holds. Default: JSON when its first line begins with {".',
        show_default=False,
    ),
]
ParallelismOption = Annotated[
    int, typer.Option("--parallelism", "-p", min=0, metavar="N", help="Jobs of the batch at a time; 0: as many as may.")
]
FailFastOption = Annotated[
    bool, typer.Option("--fail-fast", help="The first job that fails ends the batch.", show_default=False)
]
NameOption = Annotated[str, typer.Option("--name", help="A name for the batch.", show_default=False)]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label of the batch; repeatable.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", "-t", metavar="TIME", parser=_seconds, help="End each job after 90, 1.5s, 10m, ...; then SIGTERM."
    ),
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        metavar="KEY=VALUE",
        help="In each job's environment; repeatable. KEY alone copies its value from here.",
    ),
]
CwdOption = Annotated[
    str, typer.Option("--cwd", "-C", metavar="FOLDER", help="Each job's working directory.", show_default=False)
]
SeparateOption = Annotated[
    bool, typer.Option("--separate", help="Keep stdout and stderr apart, without the order between them.")
]
LogPolicyOption = Annotated[
    OnMore | None,
    typer.Option(
        "--log-policy",
        help="Of a job that prints more than its log may have: end it, throw the rest away, or keep the last bytes.",
        show_default=False,
    ),
]
StdinOption = Annotated[
    Path | None,
    typer.Option("--stdin", metavar="FILE", help="Each job's standard input; - is that of jobctl.", show_default=False),
]
NameIdOption = Annotated[
    str | None,
    typer.Option("--id", metavar="UUIDv7", help="The batch's CorrelationID. Default: a new one.", show_default=False),
]
WaitTimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", "-t", metavar="TIME", parser=_seconds, help="Wait no longer than 90, 1.5s, 10m, ..."),
]

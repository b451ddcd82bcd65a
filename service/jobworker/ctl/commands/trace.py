"""`jobctl trace`: what happened to a batch, and when, from the service's files alone."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobworker.ctl.context import run_here
from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.options import Form, FormOption, UtcOption

if TYPE_CHECKING:
    from jobworker.ctl.trace.moments import Damage, Moment, Stored

MOST_JOBS = 20
MOST_LINES = 200


def trace(  # noqa: PLR0917 - typer passes options by name
    correlation_id: Annotated[
        str, typer.Argument(metavar="ID", help="The batch's CorrelationID, or its trace id.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="FOLDER", envvar="JOBWORKER_PATHS__DATA", readable=False, help="The service's data."
        ),
    ] = Path("var/data"),
    logs: Annotated[
        Path,
        typer.Option(
            "--logs", metavar="FOLDER", envvar="JOBWORKER_PATHS__LOGS", readable=False, help="The service's own log."
        ),
    ] = Path("var/logs"),
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            "-a",
            help=f"Every job, order and line. Otherwise the first {MOST_JOBS} jobs, as many more that failed, and "
            f"{MOST_LINES} lines of the log.",
            show_default=False,
        ),
    ] = False,
    output: FormOption = Form.TABLE,
    utc: UtcOption = False,  # noqa: ARG001 - its callback does it
) -> int:
    """Tell a batch's story from the service's files, on its machine; the service need not run."""
    from jobworker.ctl.trace import batchfolder, servicelog
    from jobworker.ctl.trace.moments import Damage, parse_id

    name = parse_id(correlation_id)
    if name is None:
        raise CtlError(f"{correlation_id} is not a CorrelationID such as 019312d4-5c00-7abc-8def-0123456789ab")
    damage = Damage()
    folder = batchfolder.find(data, name)
    stored = None
    if folder is not None:
        stored = batchfolder.read(folder, most_jobs=None if everything else MOST_JOBS, damage=damage)
        if not folder.is_dir() and (moved := batchfolder.find(data, name)) is not None:
            stored = batchfolder.read(moved, most_jobs=None if everything else MOST_JOBS, damage=damage)
    lines = servicelog.read(logs, name, damage, whole=stored is None)
    if stored is None and not lines:
        raise CtlError(f"there is no batch {name} in {data}, and no line about it in {logs}", Exit.NOT_FOUND)
    lines.sort(key=lambda line: line.at)
    left_out = 0 if everything else max(0, len(lines) - MOST_LINES)
    if left_out:
        half = MOST_LINES // 2
        lines = lines[:half] + lines[-half:]
    moments = sorted([*(stored.moments if stored else ()), *lines], key=lambda moment: moment.at)

    def show() -> None:
        if output is Form.TABLE:
            _print(name, stored, moments, left_out, damage)
            return
        from jobworker.ctl.output import print_data

        print_data(_data(name, stored, moments, left_out, damage), output)

    return run_here(show)


def _print(name: str, stored: "Stored | None", moments: "list[Moment]", left_out: int, damage: "Damage") -> None:
    from jobworker.ctl.output import print_facts, print_table, say
    from jobworker.ctl.tables import Column

    began = _began(stored, moments)
    facts = {"batch": name, "trace": name.replace("-", "")}
    if stored is None:
        facts["state"] = "no longer in the data folder; the log tells of it"
    else:
        header = stored.header
        counts = ", ".join(f"{n} {state.lower().replace('_', ' ')}" for state, n in stored.counts.items())
        facts |= {
            "name": str(header.get("name", "")),
            "user": str(header.get("user", "")),
            "state": stored.state,
            "jobs": f"{stored.job_count}: {counts}" if stored.job_count is not None else "not whole",
            "folder": str(stored.folder),
        }
    facts["begins"] = datetime.fromtimestamp(began / 1e9).astimezone().isoformat(sep=" ", timespec="milliseconds")
    print_facts(facts.items())
    say()
    rows = []
    for moment in moments:
        index = "" if moment.job_index is None else str(moment.job_index)
        rows.append([f"{(moment.at - began) / 1e9:+.3f}s", index, moment.event, moment.words])
    columns = [Column("AFTER", right=True), Column("JOB", right=True), Column("WHAT"), Column("HOW", shrinks=True)]
    print_table(columns, rows)
    if stored is not None and stored.left_out:
        say(f"... and {stored.left_out} more jobs: --all")
    if left_out:
        say(f"... and {left_out} more lines of the log, in the middle: --all")
    for place in damage.places:
        say(f"cannot be read, and was passed over: {place}")


def _data(
    name: str, stored: "Stored | None", moments: "list[Moment]", left_out: int, damage: "Damage"
) -> dict[str, Any]:
    began = _began(stored, moments)
    found: dict[str, Any] = {"correlationId": name, "traceId": name.replace("-", "")}
    if stored is not None:
        found |= {
            "user": stored.header.get("user"),
            "name": stored.header.get("name"),
            "state": stored.state,
            "jobCount": stored.job_count,
            "counts": stored.counts,
            "folder": str(stored.folder),
        }
    found["moments"] = [
        {
            "at": _rfc3339(moment.at),
            "after": round((moment.at - began) / 1e9, 6),
            "event": moment.event,
            **({} if moment.job_index is None else {"jobIndex": moment.job_index}),
            "words": moment.words,
            "source": moment.source,
            "fields": moment.fields,
        }
        for moment in moments
    ]
    found["jobsLeftOut"] = 0 if stored is None else stored.left_out
    found["linesLeftOut"] = left_out
    found["damaged"] = damage.places
    return found


def _began(stored: "Stored | None", moments: "list[Moment]") -> int:
    """What times are told from: the acceptance, or else the first that is known."""
    accepted = stored.header.get("accepted_at") if stored is not None else None
    if isinstance(accepted, int):
        return accepted
    return moments[0].at if moments else 0


def _rfc3339(at: int) -> str:
    seconds, nanoseconds = divmod(at, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z"

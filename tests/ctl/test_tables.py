"""Tables and lists: at a terminal of any width, in pipes and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobworker.ctl.tables import Column, Look, Styled, cut, display_width, render
from jobworker.ctl.yamltext import to_yaml
from tests.harness.jobctl import Jobctl, Terminal

LONG = "a name of many words that no narrow terminal has room for, and 北京 in it"
COMMAND = "sleep 600 # " + "x" * 300
COLOURS = re.compile(rb"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def running(jobctl: Jobctl) -> Iterator[str]:
    """A batch whose first job has ended with 5 and whose second one runs."""
    jobs = b"exit 5\n" + COMMAND.encode() + b"\n"
    done = jobctl("submit", "-p", "1", "--name", LONG, "-l", "team=a", "-f", "-", stdin=jobs)
    batch = done.stdout.decode().strip()
    assert jobctl("logs", "-f", "-j", "0", batch).returncode == 0
    yield batch
    jobctl("cancel", "--grace", "100ms", batch)


def lines_at(jobctl: Jobctl, width: int, *arguments: str) -> list[str]:
    """What is on a terminal that is so many columns wide, without its colours."""
    terminal = Terminal(jobctl, *arguments, COLUMNS=str(width))
    assert terminal.wait() == 0
    return COLOURS.sub(b"", terminal.output).decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_list_of_batches_fits_the_terminal_and_cuts_names_alone(jobctl: Jobctl, running: str, width: int) -> None:
    header, row = lines_at(jobctl, width, "ls", "-s", "running", "-n", "1")
    assert display_width(row) <= width
    cells = row.split()
    assert cells[:4] == [running, "RUNNING", "1/2", "1"]
    assert ("ACCEPTED" in header, "USER" in header) == (width > 100, width > 80)
    assert "ELAPSED" in header
    assert row.endswith(("…", LONG))
    assert LONG[:3] in row


@pytest.mark.parametrize("width", [80, 200])
def test_a_list_of_jobs_keeps_index_result_and_size_at_any_width(jobctl: Jobctl, running: str, width: int) -> None:
    shown = lines_at(jobctl, width, "get", running)
    header, first, second = shown[-3:]
    assert header.split() == ["JOB", "RESULT", "ELAPSED", "LOG", "COMMAND"]
    assert re.match(r" *0  FAILED \(exit code 5\) +[\d.]+s +0  exit 5$", first)
    assert re.match(r" *1  RUNNING +[\dms.]+ +0  sleep 600 # x+…$", second)
    assert len(second) == width


def test_what_runs_has_an_elapsed_time_and_what_waits_has_none(jobctl: Jobctl) -> None:
    batch = jobctl("submit", "-p", "1", "-f", "-", stdin=b"sleep 600\ntrue\n").stdout.decode().strip()
    process = jobctl.start("logs", "-f", batch)
    try:
        rows: list[list[str]] = []
        while not any(row[1] == "RUNNING" for row in rows):
            shown = jobctl("get", "--columns", "job,result,elapsed", "--no-headers", batch).stdout.decode()
            rows = [line.split() for line in shown.splitlines()]
        assert re.fullmatch(r"[\d.]+s", rows[0][2])
        assert rows[1][1:] == ["QUEUED"]
    finally:
        jobctl("cancel", "--grace", "100ms", batch)
        process.communicate(timeout=60)


def test_a_pipe_gets_whole_lines(jobctl: Jobctl, running: str) -> None:
    assert LONG in jobctl("ls", "-s", "running", "-n", "1").stdout.decode()
    assert COMMAND in jobctl("get", running).stdout.decode()


def test_wide_has_more_columns_and_cuts_nothing_at_a_terminal(jobctl: Jobctl, running: str) -> None:
    header, row = lines_at(jobctl, 80, "ls", "-s", "running", "-n", "1", "-o", "wide")
    assert {"STARTED", "LABELS", "USER", "ACCEPTED"} <= set(header.split())
    assert "team=a" in row
    assert row.endswith(LONG)


def test_columns_are_shown_in_the_order_that_was_asked_for(jobctl: Jobctl, running: str) -> None:
    shown = jobctl("ls", "-s", "running", "-n", "1", "--columns", "state,id,Labels").stdout.decode()
    assert [line.split() for line in shown.splitlines()] == [["STATE", "ID", "LABELS"], ["RUNNING", running, "team=a"]]
    assert jobctl("ls", "-s", "running", "-n", "1", "--columns", "id", "--no-headers").stdout.decode() == f"{running}\n"


def test_names_alone_are_what_other_commands_take(jobctl: Jobctl, running: str) -> None:
    for arguments in (["-q"], ["-o", "name"]):
        assert jobctl("ls", "-s", "running", "-n", "1", *arguments).stdout.decode() == f"{running}\n"
        assert jobctl("get", *arguments, running).stdout == b"0\n1\n"
    assert b"jobs.running\n" in jobctl("admin", "config", "show", "-q", **admin(jobctl)).stdout


def test_json_lines_are_one_line_each_at_a_terminal_too(jobctl: Jobctl, running: str) -> None:
    (line,) = lines_at(jobctl, 80, "ls", "-s", "running", "-n", "1", "-o", "jsonl")
    assert json.loads(line)["correlationId"] == running
    assert [json.loads(line)["index"] for line in lines_at(jobctl, 80, "get", "-o", "jsonl", running)] == [0, 1]


def test_yaml_says_the_same_as_json(jobctl: Jobctl, running: str) -> None:
    for arguments in (["get", running], ["ls", "-s", "running", "-n", "1"], ["whoami"]):
        (read,) = yaml.safe_load_all(jobctl(*arguments, "-o", "yaml").stdout)
        assert read == jobctl.json(*arguments), arguments


def test_times_have_a_zone(jobctl: Jobctl, running: str) -> None:
    def accepted(*options: str, zone: str) -> str:
        arguments = ["ls", "-s", "running", "-n", "1", "--columns", "accepted", "--no-headers", *options]
        return jobctl(*arguments, TZ=zone).stdout.decode().strip()

    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+05:45", accepted(zone="Asia/Kathmandu"))
    utc = accepted("--utc", zone="Asia/Kathmandu")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", utc)
    assert utc == accepted(zone="UTC")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--columns", "id,nonsense"], "no column nonsense; there are: id,state,done"),
        (["--columns", ","], "names no column"),
        (["--columns", "id", "-o", "json"], "--columns is for tables"),
        (["-q", "-o", "json"], "-q cannot be given together"),
    ],
)
def test_options_that_do_not_go_together_are_refused(jobctl: Jobctl, arguments: list[str], words: str) -> None:
    done = jobctl("ls", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()


def test_colours_are_left_out_on_request(jobctl: Jobctl, running: str) -> None:
    terminal = Terminal(jobctl, "get", running)
    assert terminal.wait() == 0
    assert b"\x1b[36mRUNNING" in terminal.output
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = Terminal(jobctl, "get", running, **environment)
        assert plain.wait() == 0
        assert b"\x1b" not in plain.output


def admin(jobctl: Jobctl) -> dict[str, str]:
    """The environment of an administrator who logs in by himself."""
    return {
        "JOBCTL_BUNDLE": str(jobctl.service.pki / "clients" / "admin"),
        "JOBCTL_PASSWORD": jobctl.service.passwords["admin"],
    }


TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=40)
COLUMNS = [Column("ID"), Column("MORE", expendable=1), Column("LESS", expendable=2), Column("N", right=True)]
COLUMNS += [Column("TEXT", shrinks=True)]


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS), max_size=5), st.integers(1, 200), st.booleans())
def test_a_table_is_never_wider_than_what_must_be_whole(rows: list[tuple[str, ...]], width: int, colours: bool) -> None:
    styled = [[Styled(cell, "red") for cell in row] for row in rows]
    header, *lines = list(render(COLUMNS, styled, Look(width, colours=colours)))
    needs = [max([len(c.title), *(display_width(row[i]) for row in rows)]) for i, c in enumerate(COLUMNS)]
    least = needs[0] + needs[3] + min(needs[4], 8) + 2 * 2
    for line, row in zip(lines, rows, strict=True):
        plain = re.sub(r"\x1b\[\d+m", "", line)
        assert display_width(plain) <= max(width, least)
        assert plain.startswith(row[0])
        assert row[3] in plain
    titles = re.sub(r"\x1b\[\d+m", "", header).split()
    assert ("LESS" in titles) <= ("MORE" in titles)
    if sum(needs) + 2 * 4 <= width:
        assert all(cell in line for line, row in zip(lines, rows, strict=True) for cell in row)


@given(TEXTS, st.integers(1, 50))
def test_a_cut_text_fits_and_says_that_it_is_cut(text: str, width: int) -> None:
    found = cut(text, width)
    assert display_width(found) <= width
    assert found == text or found.endswith("…")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
WORDS = st.sampled_from(
    ["no", "Yes", "on", "~", "null", "1e3", "0x1f", "1_000", "12:30:45", "2026-01-01", "=", "<<", "a: b"]
)


@given(VALUES | WORDS | st.dictionaries(WORDS, WORDS))
def test_yaml_is_read_back_as_the_same_value(value: object) -> None:
    text = to_yaml(value)
    for character in set(text) - {"\n"}:  # what YAML does not allow is written out by visible_json
        if yaml.reader.Reader.NON_PRINTABLE.match(character) is not None:
            return
    assert yaml.safe_load(text) == value

"""`jobctl get`, `logs`, `wait`, `cancel` and `ls`."""

from __future__ import annotations

import json

import pytest

from tests.harness.jobctl import Jobctl, Terminal
from tests.harness.wait import until

UNKNOWN = "01940000-0000-7000-8000-000000000000"


@pytest.fixture(scope="session")
def three(jobctl: Jobctl) -> str:
    """A finished batch: one job succeeded, one failed, one was killed."""
    done = jobctl("submit", "-f", "-", "--name", "three", stdin=b"seq 3\necho b; exit 5\nkill -9 $$\n")
    batch = done.stdout.decode().strip()
    assert jobctl("wait", batch).returncode == 1
    return batch


def test_a_batch_and_its_jobs_are_shown(jobctl: Jobctl, three: str) -> None:
    done = jobctl("get", three)
    assert done.returncode == 0
    shown = done.stdout.decode()
    assert three in shown
    assert "3: 1 succeeded, 2 failed" in shown
    rows = shown.split("\n\n")[1].splitlines()
    assert rows[0].split() == ["JOB", "RESULT", "ELAPSED", "LOG", "COMMAND"]
    assert "SUCCEEDED (exit code 0)" in rows[1]
    assert "FAILED (exit code 5)" in rows[2]
    assert "FAILED (signal 9, SIGKILL)" in rows[3]


def test_some_jobs_can_be_asked_for(jobctl: Jobctl, three: str) -> None:
    got = jobctl.json("get", "-j", "0", "-j", "2", three)
    assert [job["index"] for job in got["jobs"]] == [0, 2]
    assert got["jobs"][1]["signal"] == 9


def test_a_long_table_is_cut_and_says_so(jobctl: Jobctl, three: str) -> None:
    shown = jobctl("get", "-n", "2", three).stdout.decode()
    assert "... and 1 more" in shown


def test_commands_cannot_paint_the_terminal(jobctl: Jobctl) -> None:
    batch = jobctl.id_of(": '\x1b[2J [red]x'")
    terminal = Terminal(jobctl, "get", batch)
    assert terminal.wait() == 0
    assert b"\x1b[2J" not in terminal.output
    assert b"[red]x" in terminal.output


def test_logs_are_whole_by_default_and_in_index_order(jobctl: Jobctl, three: str) -> None:
    assert jobctl("logs", three).stdout == b"1\n2\n3\nb\n"
    assert jobctl("logs", "-f", three).stdout == b"1\n2\n3\nb\n"
    assert jobctl("logs", "-j", "0", "--tail", "2", three).stdout == b"2\n3\n"


def test_logs_of_separate_outputs_can_be_chosen(jobctl: Jobctl) -> None:
    batch = jobctl.id_of("--separate", "echo out; echo error >&2")
    assert jobctl("wait", batch).returncode == 0
    both = jobctl("logs", batch)
    assert (both.stdout, both.stderr) == (b"out\n", b"error\n")
    chosen = jobctl("logs", "--stream", "stderr", batch)
    assert (chosen.stdout, chosen.stderr) == (b"", b"error\n")


def test_logs_show_what_there_is_and_follow_only_when_asked(jobctl: Jobctl) -> None:
    batch = jobctl.id_of("echo ready; sleep 600")
    until(lambda: jobctl("logs", batch).stdout == b"ready\n", "the first line")
    process = jobctl.start("logs", "-f", batch)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert jobctl("cancel", batch).returncode == 0
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_waiting_has_an_end_of_its_own(jobctl: Jobctl) -> None:
    batch = jobctl.id_of("sleep 600")
    done = jobctl("wait", "--timeout", "300ms", batch)
    assert done.returncode == 124
    assert done.stdout.startswith((b"RUNNING", b"QUEUED"))
    assert jobctl.json("cancel", "--grace", "1s", batch)["state"] == "BATCH_STATE_CANCELLED"
    assert jobctl("cancel", batch).returncode == 0
    assert jobctl("wait", batch).returncode == 1


def test_waiting_is_one_call_however_long_it_lasts(jobctl: Jobctl) -> None:
    batch = jobctl.id_of("sleep 2")
    assert jobctl("wait", batch).returncode == 0
    log = jobctl.service.folder / "logs" / "service.jsonl"

    def calls() -> list[str]:
        lines = [json.loads(line) for line in log.read_text().splitlines() if batch in line]
        return sorted(line["method"].rpartition("/")[2] for line in lines if line["event"] == "rpc")

    until(lambda: "WaitBatch" in calls(), "its line")
    assert [name for name in calls() if not name.startswith("Execute")] == ["GetBatch", "WaitBatch"]


def test_waiting_at_a_terminal_shows_how_far_it_is(jobctl: Jobctl) -> None:
    batch = jobctl("submit", "-f", "-", "-p", "1", stdin=b"true\nsleep 600\ntrue\n").stdout.decode().strip()
    terminal = Terminal(jobctl, "wait", batch)
    until(lambda: b"1 succeeded" in terminal.output, "a bar with one of three")
    assert jobctl("cancel", "-j", "1", batch).returncode == 0
    assert terminal.wait() == 1
    assert b"CANCELLED (3: 2 succeeded, 1 cancelled)" in terminal.output


def test_batches_are_listed_newest_first(jobctl: Jobctl) -> None:
    first, second = jobctl.id_of("true"), jobctl.id_of("exit 1")
    for batch in (first, second):
        jobctl("wait", batch)
    listed = [json.loads(line)["correlationId"] for line in jobctl("ls", "-n", "2", "-o", "json").stdout.splitlines()]
    assert listed == [second, first]
    assert jobctl("ls", "-n", "1").stdout.split(b"\n")[1].startswith(second.encode())
    failed = jobctl("ls", "--state", "failed", "-n", "0", "-o", "json").stdout.decode()
    assert second in failed
    assert first not in failed


def test_what_is_not_there_is_exit_code_4(jobctl: Jobctl, three: str) -> None:
    for arguments in (["get", UNKNOWN], ["logs", UNKNOWN], ["wait", UNKNOWN], ["cancel", UNKNOWN]):
        done = jobctl(*arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (4, 1), arguments
    assert jobctl("logs", "-j", "3", three).returncode == 4
    assert jobctl("get", "-j", "3", three).returncode == 4


def test_what_names_no_batch_is_exit_code_4(jobctl: Jobctl) -> None:
    done = jobctl("get", "nonsense")
    assert (done.returncode, done.stderr.count(b"\n")) == (4, 1)
    assert b"the name nonsense" in done.stderr


def test_ctrl_c_leaves_a_follow_quietly_and_the_batch_alone(jobctl: Jobctl) -> None:
    batch = jobctl.id_of("echo ready; sleep 600")
    terminal = Terminal(jobctl, "logs", "-f", batch)
    until(lambda: b"ready" in terminal.output, "the first line")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert b"Traceback" not in terminal.output
    assert jobctl.json("get", batch)["state"] == "BATCH_STATE_RUNNING"
    assert jobctl("cancel", batch).returncode == 0

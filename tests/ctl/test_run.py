"""`jobctl run`: the output and the exit code of the jobs are ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.jobctl import Jobctl, Terminal
from tests.harness.service import Service
from tests.harness.wait import until

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize(
    ("command", "code"), [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_it_exits_as_its_job_did(jobctl: Jobctl, command: str, code: int) -> None:
    assert jobctl("run", command).returncode == code


def test_its_output_is_the_jobs_byte_for_byte(jobctl: Jobctl) -> None:
    escapes = "".join(f"\\{byte:03o}" for byte in EVERY_BYTE)
    done = jobctl("run", f"printf '{escapes}'; printf '{escapes}' >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, EVERY_BYTE * 2, b"")


def test_separate_outputs_come_out_apart(jobctl: Jobctl) -> None:
    done = jobctl("run", "--separate", "echo out; echo error >&2; exit 2")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"out\n", b"error\n")


def test_several_arguments_are_a_program_without_a_shell(jobctl: Jobctl) -> None:
    assert jobctl("run", "printf", "%s.", "a b", "$HOME", "--help").stdout == b"a b.$HOME.--help."
    assert jobctl("run", "--", "printf", "%s", "-x").stdout == b"-x"


def test_options_reach_the_job(jobctl: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(EVERY_BYTE)
    command = 'pwd; echo "$A $OURS"; wc -c'
    options = ["--cwd", "/usr", "--env", "A=1=2", "--env", "OURS", "--stdin", str(file)]
    done = jobctl("run", *options, command, OURS="from here")
    assert done.stdout.splitlines() == [b"/usr", b"1=2 from here", b"256"]
    assert jobctl("run", "--stdin", "-", "cat", stdin=EVERY_BYTE).stdout == EVERY_BYTE


def test_a_program_that_cannot_start_is_told_on_stderr(jobctl: Jobctl) -> None:
    done = jobctl("run", "/nowhere/at", "all")
    assert done.returncode == 1
    assert b"job 0: FAILED" in done.stderr
    assert b"/nowhere/at" in done.stderr


def test_a_timeout_ends_it_and_says_so(jobctl: Jobctl) -> None:
    done = jobctl("run", "--timeout", "200ms", "trap 'exit 0' TERM; sleep 600 & wait")
    assert done.returncode == 1  # it exited with 0, and did not succeed
    done = jobctl("run", "--timeout", "0.2", "sleep 600")
    assert done.returncode == 143
    assert b"TIMED_OUT" in done.stderr


def test_of_several_jobs_the_first_by_index_that_failed_counts(jobctl: Jobctl) -> None:
    done = jobctl("run", "-f", "-", stdin=b"sleep 0.5; exit 7\nexit 8\ntrue\n")
    assert done.returncode == 7
    assert done.stderr.splitlines() == [
        b"jobctl: job 0: FAILED (exit code 7)",
        b"jobctl: job 1: FAILED (exit code 8)",
    ]


def test_lines_of_several_jobs_begin_with_their_index_where_asked_for(jobctl: Jobctl) -> None:
    done = jobctl("run", "--prefix", "-f", "-", stdin=b"printf 'a\\nb'\nprintf 'c\\n'\n")
    assert sorted(done.stdout.splitlines()) == [b"[0] a", b"[0] b", b"[1] c"]


def test_json_prints_the_pieces_a_line_each(jobctl: Jobctl) -> None:
    done = jobctl("run", "-o", "json", "echo hello; exit 4")
    pieces = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 4
    assert [piece.get("data") for piece in pieces] == ["aGVsbG8K", None]
    assert pieces[-1]["end"]["exitCode"] == 4


def test_ctrl_c_cancels_the_batch_and_waits_for_its_end(jobctl: Jobctl) -> None:
    terminal = Terminal(jobctl, "run", "trap 'echo caught; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: b"ready" in terminal.output, "the job")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert b"caught" in terminal.output
    assert jobctl.json("ls", "-n", "1")["state"] == "BATCH_STATE_CANCELLED"


def test_a_second_ctrl_c_leaves_at_once(jobctl: Jobctl) -> None:
    command = "trap 'echo holding' TERM; echo ready; while :; do sleep 0.05; done"
    terminal = Terminal(jobctl, "run", "--name", "stubborn", command)
    until(lambda: b"ready" in terminal.output, "the job")
    terminal.type("\x03")
    until(lambda: b"holding" in terminal.output, "the first Ctrl-C")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert b"left; the batch is" in terminal.output


def test_a_reader_that_goes_away_ends_it_quietly(jobctl: Jobctl) -> None:
    process = jobctl.start("run", "yes")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(60) == 141
    said = process.stderr.read()
    process.stderr.close()
    assert said.count(b"\n") == 1
    batch = jobctl.json("ls", "-n", "1")["correlationId"]
    assert batch.encode() in said
    assert jobctl("cancel", batch).returncode == 0


def test_it_outlives_a_killed_server(service: Service, tmp_path: Path) -> None:
    jobctl = Jobctl(service, tmp_path / "cache").login()
    process = jobctl.start("run", "for i in $(seq 100); do echo line $i; sleep 0.02; done; exit 9")
    assert process.stdout is not None
    first = process.stdout.readline()
    service.kill_server()
    rest, said = process.communicate(timeout=60)
    assert first + rest == "".join(f"line {i}\n" for i in range(1, 101)).encode()
    assert process.returncode == 9
    assert b"trying again" in said


def test_output_comes_while_the_job_runs(jobctl: Jobctl) -> None:
    process = jobctl.start("run", "echo one; read go < /dev/null; sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    assert process.poll() is None
    process.terminate()
    process.communicate()
    jobctl("cancel", jobctl.json("ls", "-n", "1")["correlationId"])


def test_a_prefix_is_shown_at_a_terminal_when_there_are_several_jobs(jobctl: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "jobs"
    file.write_text("echo a\necho b\n")
    terminal = Terminal(jobctl, "run", "-f", str(file))
    assert terminal.wait() == 0
    assert b"[0] a\r\n" in terminal.output
    assert b"[1] b\r\n" in terminal.output

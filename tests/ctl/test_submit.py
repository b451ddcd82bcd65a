"""`jobctl submit`: batches from arguments, files and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from jobworker.client import new_correlation_id
from tests.harness.jobctl import Jobctl
from tests.harness.wait import until


def commands_of(jobctl: Jobctl, correlation_id: str) -> list[str]:
    return [job["command"] or " ".join(job["argv"]) for job in jobctl.json("get", correlation_id)["jobs"]]


def ids(jobctl: Jobctl) -> list[str]:
    listed = jobctl("ls", "-n", "0", "-o", "json").stdout.splitlines()
    return [json.loads(line)["correlationId"] for line in listed]


def test_it_prints_the_id_and_nothing_else(jobctl: Jobctl) -> None:
    done = jobctl("submit", "true")
    assert done.stderr == b""
    assert len(done.stdout) == 37
    assert jobctl("wait", done.stdout.decode().strip()).returncode == 0


def test_blank_lines_and_comments_are_skipped_and_crlf_is_a_line_end(jobctl: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "jobs"
    file.write_bytes(b"# first\n\n  echo a  \n\t\n  # more\necho b\r\necho 'no newline'")
    assert commands_of(jobctl, jobctl.id_of("-f", str(file))) == ["echo a", "echo b", "echo 'no newline'"]


def test_json_lines_are_job_requests_and_options_fill_what_they_leave_open(jobctl: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        '{"argv": ["sh", "-c", "echo $A $B"], "env": {"A": "own"}, "name": "first"}\n\n{"command": "echo $A $B; pwd"}\n'
    )
    batch = jobctl.id_of("--env", "A=all", "--env", "B=both", "--cwd", "/usr", "-f", str(file))
    assert jobctl("wait", batch).returncode == 0
    assert jobctl("logs", "-j", "0", batch).stdout == b"own both\n"
    assert jobctl("logs", "-j", "1", batch).stdout == b"all both\n/usr\n"
    assert jobctl.json("get", batch)["jobs"][0]["name"] == "first"


def test_a_shell_group_is_no_json(jobctl: Jobctl) -> None:
    done = jobctl("run", "-f", "-", stdin=b"{ echo a; echo b; }\n")
    assert done.stdout == b"a\nb\n"


def test_a_wrong_line_is_named_and_nothing_is_accepted(jobctl: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"command": "true"}\n{"command": "true", "nonsense": 1}\n')
    name = new_correlation_id(os.stat(file).st_mtime_ns // 1_000_000)
    done = jobctl("submit", "--id", name, "-f", str(file))
    assert done.returncode == 2
    assert f"{file}:2: ".encode() in done.stderr
    assert b"nonsense" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert jobctl("get", name).returncode == 4


def test_a_job_that_the_service_refuses_is_named(jobctl: Jobctl) -> None:
    done = jobctl("submit", "-f", "-", stdin=b'{"command": "true"}\n{"command": "true", "argv": ["true"]}\n')
    assert done.returncode == 5
    assert b"jobs[1]" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("content", [b"", b"# nothing\n"])
def test_a_file_without_commands_is_an_error(jobctl: Jobctl, content: bytes) -> None:
    done = jobctl("submit", "-f", "-", stdin=content)
    assert (done.returncode, done.stderr) == (2, b"jobctl: standard input: holds no command\n")


def test_a_file_that_cannot_be_read_is_named(jobctl: Jobctl, tmp_path: Path) -> None:
    assert b"No such file" in jobctl("submit", "-f", str(tmp_path / "none")).stderr
    done = jobctl("submit", "-f", str(tmp_path))
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_the_same_id_and_content_is_no_error_and_another_content_is(jobctl: Jobctl) -> None:
    name = jobctl.id_of("true")
    again = jobctl("submit", "--id", name, "true")
    assert (again.returncode, again.stdout.decode().strip()) == (0, name)
    assert b"accepted before" in again.stderr
    assert jobctl("submit", "--id", name, "false").returncode == 5


def test_options_of_the_batch_are_kept(jobctl: Jobctl) -> None:
    batch = jobctl.id_of("-p", "2", "--fail-fast", "--name", "mine", "-l", "a=b", "-l", "c=", "true")
    got = jobctl.json("get", batch)
    assert (got["name"], got["parallelism"], got["failFast"], got["labels"]) == ("mine", 2, True, {"a": "b", "c": ""})


def test_a_generator_that_is_still_running_is_waited_for(jobctl: Jobctl) -> None:
    process = jobctl.start("submit", "-f", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"echo early\n")
    process.stdin.flush()
    until(lambda: process.poll() is None)
    out, _ = process.communicate(b"echo late\n", timeout=60)
    assert commands_of(jobctl, out.decode().strip()) == ["echo early", "echo late"]


def test_ctrl_c_before_the_end_of_input_submits_nothing(jobctl: Jobctl) -> None:
    before = ids(jobctl)
    process = jobctl.start("submit", "-f", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"echo early\n" * 20_000)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (130, -signal.SIGINT)
    process.communicate()
    assert ids(jobctl) == before


def test_json_output_is_the_services_answer(jobctl: Jobctl) -> None:
    answer = json.loads(jobctl("submit", "-o", "json", "true").stdout)
    assert (answer["result"], answer["jobCount"]) == ("ACCEPTED", 1)


def test_a_command_and_a_file_exclude_each_other(jobctl: Jobctl) -> None:
    for arguments in ([], ["-f", "-", "true"]):
        done = jobctl("submit", *arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)

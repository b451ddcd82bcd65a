"""Commands that log in by themselves, and where they have the password from."""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from jobworker.ctl import passwords
from jobworker.ctl.exits import CtlError
from jobworker.ctl.passwords import PasswordSource
from tests.ctl.test_login import WRONG_TOKEN, token_file
from tests.harness.jobctl import Jobctl
from tests.harness.wait import alive, until


def helper(folder: Path, body: str) -> str:
    """A credential helper; its command line."""
    path = folder / "my helper"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(stat.S_IRWXU)
    return f"'{path}' 'an argument'"


def test_each_source_of_a_password_makes_a_login_unnecessary(newcomer: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(newcomer.password + "\n")
    file.chmod(0o600)
    command = helper(tmp_path, f'test "$1" = "an argument" && test "$JOBCTL_USER" = bob && cat {file}')
    for source in (
        {"JOBCTL_PASSWORD": newcomer.password},
        {"JOBCTL_PASSWORD_FILE": str(file), "JOBCTL_PASSWORD": "wrong"},
        {"JOBCTL_PASSWORD_COMMAND": command, "JOBCTL_PASSWORD": "wrong"},
    ):
        done = newcomer("submit", "true", **source)
        assert (done.returncode, done.stderr) == (0, b""), source
        assert newcomer("ls").returncode == 0  # the token is kept
        assert newcomer("ls", **dict.fromkeys(source, "wrong")).returncode == 0  # and nobody asks while it works
        assert newcomer("logout").returncode == 0
    assert newcomer("--password-command", command, "login").returncode == 0
    assert newcomer("--password-file", str(file), "login").returncode == 0


def test_a_refused_token_is_replaced_once(newcomer: Jobctl) -> None:
    newcomer.login()
    token_file(newcomer).write_text(json.dumps(WRONG_TOKEN))
    assert newcomer("ls", JOBCTL_PASSWORD="wrong").returncode == 3
    assert json.loads(token_file(newcomer).read_text()) == WRONG_TOKEN
    assert newcomer("run", "true", JOBCTL_PASSWORD=newcomer.password).returncode == 0
    assert newcomer("ls").returncode == 0


def test_a_token_is_replaced_before_its_end_and_goes_on_where_that_fails(newcomer: Jobctl) -> None:
    newcomer.login()
    kept = json.loads(token_file(newcomer).read_text())
    kept["received_at"] = time.time() - 3590
    token_file(newcomer).write_text(json.dumps(kept))
    for source in ({}, {"JOBCTL_PASSWORD": "wrong"}, {"JOBCTL_PASSWORD_COMMAND": "/nowhere"}):
        assert newcomer("ls", **source).returncode == 0
        assert json.loads(token_file(newcomer).read_text()) == kept
    assert newcomer("ls", JOBCTL_PASSWORD=newcomer.password).returncode == 0
    assert json.loads(token_file(newcomer).read_text())["access_token"] != kept["access_token"]


def test_where_no_token_can_be_kept_a_password_is_enough(newcomer: Jobctl) -> None:
    newcomer.environment["XDG_CACHE_HOME"] = "/proc/nowhere"
    done = newcomer("run", "echo hello", JOBCTL_PASSWORD=newcomer.password)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (0, b"hello\n", 1)
    assert b"kept for this command alone" in done.stderr
    done = newcomer("login", JOBCTL_PASSWORD=newcomer.password)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"the token cannot be kept" in done.stderr


def test_standard_input_is_for_a_login_alone(newcomer: Jobctl) -> None:
    done = newcomer("--password-file", "-", "ls", stdin=newcomer.password.encode())
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"jobctl login --password-file -" in done.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 7", "ended with exit code 7"),
        ("echo s3cret; exit 7", "ended with exit code 7"),
        ("true", "printed nothing"),
        (r"printf 's3cret\377'", "printed something that is not text"),
        ("yes s3cret", "has printed something, and does not end"),
    ],
)
def test_a_helper_that_fails_is_one_line_without_what_it_printed(
    newcomer: Jobctl, tmp_path: Path, body: str, words: str
) -> None:
    for debug in ({}, {"JOBCTL_DEBUG": "1"}):
        done = newcomer("ls", JOBCTL_PASSWORD_COMMAND=helper(tmp_path, body), **debug)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert words in done.stderr.decode()
        assert b"s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/nowhere/helper", "/nowhere/helper cannot be run: No such file or directory"),
        ("'s3cret", "cannot be taken apart: no closing quotation"),
        ("", "is empty"),
    ],
)
def test_a_helper_that_is_none_is_one_line(newcomer: Jobctl, command: str, words: str) -> None:
    done = newcomer("--password-command", command, "ls")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert words in done.stderr.decode()
    assert b"s3cret" not in done.stderr


def test_a_helper_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COMMAND_SECONDS", 0.5)
    pid_file = tmp_path / "pid"
    program = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(CtlError, match=r"has not ended in 0\.5 s"):
        PasswordSource(command=f'{sys.executable} -c "{program}"').read(user="alice", server="localhost:1")
    if pid_file.exists():  # it may have been ended before it began
        until(lambda: not alive(int(pid_file.read_text() or 0)), "its end")

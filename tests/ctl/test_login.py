"""Logging in, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness.jobctl import Jobctl, Terminal
from tests.harness.wait import until

TIMES = {"expires_at": "2999-01-01T00:00:00+00:00", "given_at": None, "certificate_expires_at": None}
WRONG_TOKEN = {"access_token": "nonsense", "received_at": 9e9, **TIMES}
OLD_TOKEN = {**WRONG_TOKEN, "received_at": 9e8}


def token_file(jobctl: Jobctl) -> Path:
    return next(Path(jobctl.environment["XDG_CACHE_HOME"], "jobworker").iterdir())


def test_a_login_keeps_a_token_that_only_its_owner_can_read(newcomer: Jobctl) -> None:
    done = newcomer("login", JOBCTL_PASSWORD=newcomer.password)
    assert done.returncode == 0
    assert done.stdout.startswith(b"logged in at localhost:")
    assert token_file(newcomer).stat().st_mode & 0o777 == 0o600
    assert token_file(newcomer).parent.stat().st_mode & 0o777 == 0o700
    assert newcomer("ls").returncode == 0


def test_a_login_at_a_terminal_asks_and_shows_no_password(newcomer: Jobctl) -> None:
    terminal = Terminal(newcomer, "login")
    until(lambda: b"Password of bob at localhost:" in terminal.output, "the question")
    terminal.type(newcomer.password + "\n")
    assert terminal.wait() == 0
    assert b"logged in at" in terminal.output
    assert newcomer.password.encode() not in terminal.output


def test_a_password_can_come_from_a_file_or_standard_input(newcomer: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(newcomer.password + "\n")
    assert newcomer("login", "--password-file", str(file)).returncode == 0
    assert newcomer("login", "--password-file", "-", stdin=newcomer.password.encode()).returncode == 0


def test_without_a_terminal_or_a_password_it_says_what_to_give(newcomer: Jobctl) -> None:
    done = newcomer("login")
    assert done.returncode == 2
    assert b"--password-file" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_wrong_password_is_one_line_and_exit_code_3(newcomer: Jobctl) -> None:
    done = newcomer("login", JOBCTL_PASSWORD="wrong")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"Traceback" not in done.stderr


def test_another_users_name_over_this_certificate_is_refused(newcomer: Jobctl) -> None:
    other = newcomer.service.passwords["alice"]
    assert newcomer("login", "--user", "alice", JOBCTL_PASSWORD=other).returncode == 3


def test_without_a_login_every_command_says_to_log_in(newcomer: Jobctl) -> None:
    for command in (["ls"], ["submit", "true"], ["run", "true"], ["logs", "x"], ["wait", "x"], ["cancel", "x"]):
        done = newcomer(*command)
        assert done.returncode == 3, command
        assert done.stderr.endswith(b"run: jobctl login\n")
        assert done.stderr.count(b"\n") == 1


def test_a_token_that_is_too_old_or_refused_says_to_log_in_again(newcomer: Jobctl) -> None:
    newcomer.login()
    for token in (OLD_TOKEN, WRONG_TOKEN):
        token_file(newcomer).write_text(json.dumps(token))
        done = newcomer("ls")
        assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
        assert b"jobctl login" in done.stderr


def test_a_kept_token_that_is_no_header_is_as_good_as_none(newcomer: Jobctl) -> None:
    newcomer.login()
    whole = json.loads(token_file(newcomer).read_text())
    for text in ("pl4nted\u00a0", "pl4nted\ud800", "pl4nted\nx: y", "pl4nted\0", "", "pl4nted token"):
        token_file(newcomer).write_text(json.dumps({**whole, "access_token": text}))
        done = newcomer("ls")
        assert (done.returncode, b"pl4nted" in done.stdout + done.stderr) == (3, False), done.stderr


def test_a_damaged_token_file_is_as_good_as_none(newcomer: Jobctl) -> None:
    newcomer.login()
    token_file(newcomer).write_bytes(b"\xff{")
    assert newcomer("ls").returncode == 3
    newcomer.login()
    assert newcomer("ls").returncode == 0


def test_a_bundle_that_is_not_there_is_named(newcomer: Jobctl, tmp_path: Path) -> None:
    done = newcomer("ls", JOBCTL_BUNDLE=str(tmp_path / "nowhere"))
    assert done.returncode == 3
    assert b"nowhere/tls.crt" in done.stderr
    assert b"--bundle" in done.stderr


def test_a_key_or_password_that_others_may_read_is_told_and_taken(newcomer: Jobctl, tmp_path: Path) -> None:
    bundle = shutil.copytree(newcomer.environment["JOBCTL_BUNDLE"], tmp_path / "bundle")
    newcomer.environment["JOBCTL_BUNDLE"] = str(bundle)
    assert newcomer("login", "--password-file", str(bundle / "password")).stderr == b""
    for name in ("tls.key", "password"):
        (bundle / name).chmod(0o644)
    done = newcomer("login", "--password-file", str(bundle / "password"))
    assert done.returncode == 0
    told = done.stderr.decode().splitlines()
    assert [line.rpartition(" - run: ")[2] for line in told] == [
        f"chmod 0600 {bundle / name}" for name in ("password", "tls.key")
    ]
    assert newcomer("ls").stderr.decode() == f"{told[1]}\n"


def test_no_failure_shows_a_password_or_token(newcomer: Jobctl, tmp_path: Path) -> None:
    file = tmp_path / "password"
    for secret in (b"s3cret", b"s3cret\xff", b"s3cret\n\n\xe4"):
        file.write_bytes(secret)
        for debug in ({}, {"JOBCTL_DEBUG": "1"}):
            done = newcomer("login", "--password-file", str(file), **debug)
            assert done.returncode != 0
            assert b"s3cret" not in done.stdout + done.stderr
            given = os.fsdecode(secret)
            done = newcomer("login", JOBCTL_PASSWORD=given, **debug)
            assert done.returncode in (3, 5)
            assert b"s3cret" not in done.stdout + done.stderr
    newcomer.login()
    for token in ("s3cret\n", "s3cret\u00a0", "s3cret\ud800"):
        token_file(newcomer).write_text(json.dumps({**WRONG_TOKEN, "access_token": token}))
        for command in (["ls"], ["logs", "x"], ["submit", "true"], ["admin", "status"]):
            done = newcomer(*command, JOBCTL_DEBUG="1")
            assert done.returncode == 3
            assert b"s3cret" not in done.stdout + done.stderr


def test_folders_for_tokens_are_closed_to_others_with_a_umask_of_0(newcomer: Jobctl, tmp_path: Path) -> None:
    cache = tmp_path / "home/.cache"
    program = "import os, sys; os.umask(0); from jobworker.ctl.cli import call; sys.exit(call(['login']))"
    environment = {**newcomer.environment, "XDG_CACHE_HOME": str(cache), "JOBCTL_PASSWORD": newcomer.password}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, timeout=60)
    made = [cache.parent, cache, *cache.rglob("*")]
    assert len(made) == 4
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []

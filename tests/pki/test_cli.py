"""The command `jobpki`, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def jobpki(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobpki.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_init_issue_and_list_from_the_command_line(tmp_path: Path) -> None:
    root = tmp_path / "pki"
    first = jobpki("init", "--dir", str(root), "--user", "alice", "--user", "vic:viewer", "--san", "10.0.0.1")
    assert first.returncode == 0, first.stderr
    password = (root / "clients/admin/password").read_text().strip()
    assert f"password of admin: {password} " in first.stdout

    second = jobpki("init", "--dir", str(root), "--user", "alice", "--user", "vic:viewer", "--san", "10.0.0.1")
    assert second.returncode == 0
    assert second.stdout == f"{root} is complete (trust domain jobworker): nothing to do\n"

    issued = jobpki(
        "issue", "bob", "--role", "operator", "--dir", str(root), "--password-file", "-", stdin="hello, world\n"
    )
    assert issued.returncode == 0, issued.stderr
    assert "hello" not in issued.stdout

    listed = jobpki("list", "--dir", str(root), "-o", "json")
    entries = {entry["name"]: entry for entry in json.loads(listed.stdout)}
    roles = {name: entry["role"] for name, entry in entries.items()}
    assert roles == {
        "ca": None,
        "server": None,
        "health": None,
        "admin": "admin",
        "alice": "operator",
        "bob": "operator",
        "vic": "viewer",
    }
    assert all(entry["not_after"] for entry in entries.values())
    assert jobpki("list", "--dir", str(root)).stdout.splitlines()[0].split() == [
        "KIND",
        "NAME",
        "ROLE",
        "STATE",
        "EXPIRES",
        "SERIAL",
    ]


def test_what_cannot_be_done_is_one_line_and_a_failure(tmp_path: Path) -> None:
    for arguments in (
        ["issue", "alice", "--role", "viewer"],
        ["issue", "../alice", "--role", "viewer"],
        ["issue", "alice", "--role", "King"],
        ["init", "--user", "alice:a king"],
        ["init", "--san", "no name"],
        ["init", "--trust-domain", "A/b"],
        ["list"],
    ):
        failed = jobpki(*arguments, "--dir", str(tmp_path / "none"))
        assert failed.returncode == 1, arguments
        assert failed.stdout == ""
        assert failed.stderr.startswith("jobpki: ")
        assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()

"""Runs that are killed, and runs at the same time: real processes on one folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.bundle import check_server_bundle
from jobpki.directory import initialise
from jobpki.passwords import password_matches
from jobpki.users import read_users
from tests.harness.pki import LOW_COST

# Starts as soon as it is told to, and reports what it made.
PROGRAM = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from jobpki.directory import initialise
from jobpki.profiles import PasswordCost
from jobpki.users import Role
users = {f"user{i}": Role.VIEWER for i in range(20)}
sys.stdin.readline()
result = initialise(Path(sys.argv[1]), now=datetime.now(UTC), users=users, cost=PasswordCost(1, 1, 8))
print(json.dumps(result.passwords))
"""
USERS = 21
DEADLINE_SECONDS = 30


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.0001)


@pytest.mark.parametrize("seen", [".lock", "ca", "server", "auth/token.key", "clients/user0", "clients/user19"])
def test_a_run_killed_at_any_point_leaves_whole_parts_and_is_finished_by_the_next(tmp_path: Path, seen: str) -> None:
    root = tmp_path / "pki"
    with start(root) as process:
        go(process)
        wait_for(root / seen)
        process.kill()
    parts = [root / "server", *(p for p in root.glob("clients/*") if not p.name.startswith("."))]
    for bundle in parts:
        if bundle.exists():
            assert {path.name for path in bundle.iterdir()} >= {"ca.crt", "tls.crt", "tls.key"}
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "/." not in str(path)}

    with start(root) as process:
        output, _ = process.communicate("\n", timeout=DEADLINE_SECONDS)
    for path, content in before.items():
        assert path.read_bytes() == content or path.name in {"users.json", "issued.json", "audit.jsonl"}
    check_server_bundle(root, now=datetime.now(UTC))
    users = read_users(root / "auth/users.json")
    assert len(users) == USERS
    for name, password in json.loads(output).items():
        assert password_matches(password, users[name].password_hash)
    assert not [path for path in root.rglob("*") if path.name.startswith((".new-", ".old-"))]


def test_two_runs_at_the_same_time_make_one_pki(tmp_path: Path) -> None:
    root = tmp_path / "pki"
    processes = [start(root) for _ in range(3)]
    for process in processes:
        go(process)
    made = [json.loads(process.communicate(timeout=DEADLINE_SECONDS)[0]) for process in processes]
    assert sorted(len(passwords) for passwords in made) == [0, 0, USERS]
    check_server_bundle(root, now=datetime.now(UTC))
    assert initialise(root, now=datetime.now(UTC), cost=LOW_COST).made == []

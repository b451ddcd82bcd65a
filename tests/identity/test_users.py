"""The users file while it changes under a running service."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

import pytest

from jobpki.directory import issue
from jobpki.errors import PkiError
from jobpki.users import Role
from jobworker.server.identity.users import Users
from tests.harness.pki import LOW_COST, Pki


@pytest.fixture
def users(pki: Pki, problems: list[str]) -> Users:
    return Users(pki.layout.users, on_problem=problems.append)


def role(users: Users, name: str) -> Role | None:
    user = users.get(name)
    return None if user is None else user.role


def test_a_change_holds_from_the_next_call(pki: Pki, users: Users) -> None:
    assert role(users, "alice") is Role.OPERATOR
    assert role(users, "carol") is None
    issue(pki.root, "alice", role=Role.VIEWER, now=datetime.now(UTC), cost=LOW_COST)
    assert role(users, "alice") is Role.VIEWER
    issue(pki.root, "carol", role=Role.OPERATOR, now=datetime.now(UTC), cost=LOW_COST)
    assert role(users, "carol") is Role.OPERATOR


def test_a_change_of_the_same_size_and_time_stamp_is_seen(pki: Pki, users: Users) -> None:
    path = pki.layout.users
    before, text = path.stat(), path.read_text()
    path.write_text(text.replace('"viewer"', '"admin" '))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert role(users, "vic") is Role.ADMIN


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "is not a users file of version 1"),
        ('{"version": 2, "users": {}}', "is not a users file of version 1"),
        ('{"version": 1}', "has no object `users`"),
        ('{"version": 1, "users": {"../x": {}}}', "'../x' is not a user name"),
        ('{"version": 1, "users": {"alice": 1}}', "users.alice is not an object"),
        ('{"version": 1, "users": {"alice": {"role": "admin", "password": "secret"}}}', "users.alice.password is not"),
    ],
)
def test_a_damaged_file_is_reported_once_and_the_last_good_one_stays_in_force(
    pki: Pki, users: Users, problems: list[str], content: str, why: str
) -> None:
    good = pki.layout.users.read_text()
    pki.layout.users.write_text(content)
    for _ in range(3):
        assert role(users, "alice") is Role.OPERATOR
    assert len(problems) == 1
    assert re.match(f"{re.escape(f'{pki.layout.users}: {why}')}.*stay in force$", problems[0])
    assert "secret" not in problems[0]
    pki.layout.users.write_text(good.replace('"operator"', '"viewer"'))
    assert role(users, "alice") is Role.VIEWER


def test_a_file_that_vanishes_locks_nobody_out(pki: Pki, users: Users, problems: list[str]) -> None:
    pki.layout.users.unlink()
    assert role(users, "alice") is Role.OPERATOR
    assert problems == [f"{pki.layout.users}: is missing; the users read before stay in force"]


def test_without_a_good_file_there_is_no_start(pki: Pki) -> None:
    pki.layout.users.write_text("{}")
    with pytest.raises(PkiError, match=str(pki.layout.users)):
        Users(pki.layout.users, on_problem=print)

"""Which user ids users' jobs run as: stable over everything, and never another's."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobworker.server.store.uids import NoUidError, Uids, UidsError
from tests.harness.crashdisk import RecordingDisk, images


def test_a_user_has_one_id_whoever_comes_and_whatever_restarts(tmp_path: Path) -> None:
    path = str(tmp_path / "uids.json")
    uids = Uids(path)
    assert [uids.of(user, 100, 109) for user in ("alice", "bob", "alice")] == [100, 101, 100]
    again = Uids(path)
    assert [again.of(user, 100, 109) for user in ("carol", "bob", "alice")] == [102, 101, 100]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_another_range_gives_other_ids_and_none_that_somebody_had(tmp_path: Path) -> None:
    uids = Uids(str(tmp_path / "uids.json"))
    assert [uids.of(user, 100, 101) for user in ("alice", "bob")] == [100, 101]
    assert uids.of("bob", 101, 103) == 101
    assert uids.of("alice", 101, 103) == 102
    assert uids.of("carol", 100, 103) == 103  # 100 was alice's
    assert uids.of("alice", 100, 103) == 100


def test_a_range_that_is_used_up_is_an_error_and_takes_nobodys(tmp_path: Path) -> None:
    uids = Uids(str(tmp_path / "uids.json"))
    assert uids.of("alice", 100, 100) == 100
    with pytest.raises(NoUidError, match="no user id is left for bob: 100-100 are given away"):
        uids.of("bob", 100, 100)
    assert uids.of("alice", 100, 100) == 100
    assert uids.of("bob", 100, 101) == 101


def test_users_who_come_at_once_get_an_id_each(tmp_path: Path) -> None:
    uids = Uids(str(tmp_path / "uids.json"))
    users = [f"user{n % 50}" for n in range(400)]
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda user: uids.of(user, 1000, 1999), users))
    assert len(set(zip(users, given, strict=True))) == len(set(given)) == 50


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "uids": {"a": ["x"]}}', "\0" * 99]
)
def test_a_damaged_file_is_not_taken_for_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "uids.json"
    path.write_text(content)
    with pytest.raises(UidsError, match="says whose files are whose"):
        Uids(str(path))
    assert path.read_text() == content


def test_of_another_release_it_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "uids.json"
    path.write_text('{"version": 2, "uids": {}}')
    with pytest.raises(UidsError, match="of another release"):
        Uids(str(path))


def test_an_id_that_was_given_outlives_a_power_failure(tmp_path: Path) -> None:
    root, found = tmp_path / "data", tmp_path / "found"
    root.mkdir()
    found.mkdir()
    disk = RecordingDisk(root)
    uids = Uids(str(root / "uids.json"), disk)
    given = {user: (uids.of(user, 100, 199), len(disk.ops)) for user in ("alice", "bob", "carol")}
    looked = 0
    for moment, image in images(disk, found, first=0, seed=7, each=6):
        after = Uids(str(image / "uids.json"))
        for user, (uid, at) in given.items():
            if at <= moment:
                assert after.of(user, 100, 199) == uid
        looked += 1
    assert looked > 50


def test_a_disk_that_is_full_gives_no_id_and_loses_none(tmp_path: Path) -> None:
    uids = Uids(str(tmp_path / "uids.json"))
    assert uids.of("alice", 100, 199) == 100
    (tmp_path / "uids.json.new").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match="directory"):
        uids.of("bob", 100, 199)
    assert uids.of("alice", 100, 199) == 100
    (tmp_path / "uids.json.new").rmdir()
    assert uids.of("bob", 100, 199) == 101
    assert Uids(str(tmp_path / "uids.json")).of("bob", 100, 199) == 101

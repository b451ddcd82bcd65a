"""Users' jobs as different users of the machine, through the whole service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2
from tests.harness.admin import Admin
from tests.harness.service import Api, Service

FIRST, LAST = 210_000, 210_001
RANGE = f"{FIRST}-{LAST}"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "service", JOBS__UIDS=RANGE)
    made.folder.mkdir()
    yield made.start()
    made.stop()


def output(api: Api, command: str) -> str:
    name = api.submit(command)
    assert api.wait(name).counts.succeeded == 1, api.jobs(name)
    return api.log(name).decode().strip()


def test_each_user_has_an_id_of_the_range_over_restarts_of_everything(service: Service) -> None:
    alice, bob = service.api("alice"), service.api("bob")
    ids = {"alice": output(alice, "id -u; id -G").split(), "bob": output(bob, "id -u; id -G").split()}
    assert sorted(ids.values()) == [[str(FIRST)] * 2, [str(LAST)] * 2]
    service.kill_server()
    service.ready()
    assert output(service.api("bob"), "id -u; id -G").split() == ids["bob"]
    service.stop()
    service.start()
    assert output(service.api("alice"), "id -u; id -G").split() == ids["alice"]
    assert json.loads((service.data / "uids.json").read_text())["uids"] == {u: [int(i)] for u, (i, _) in ids.items()}


def test_users_share_no_files_and_a_users_batches_do(service: Service) -> None:
    alice, bob = service.api("alice"), service.api("bob")
    running = alice.submit("echo hers > note; pwd; sleep 600")
    folder = next(alice.follow(running)).data.decode().strip()
    assert output(alice, f"cat {folder}/note") == "hers"
    assert "Permission denied" in output(bob, f"cat {folder}/note 2>&1; ls {folder} 2>&1; true")
    alice.cancel(running)


def test_the_status_says_that_users_are_kept_apart(service: Service) -> None:
    status = Admin(service).status()
    assert f"a user id for each user, of {RANGE}" in status.executor.isolation_detail


def test_a_user_for_whom_no_id_is_left_is_told_so(service: Service) -> None:
    for user in ("alice", "bob"):
        output(service.api(user), "true")
    admin = service.api("admin")
    name = admin.submit("true")
    assert admin.wait(name).counts.failed == 1
    (job,) = admin.jobs(name)
    assert job.end_reason == job_pb2.END_REASON_SPAWN_FAILED
    assert f"no user id is left for admin: {RANGE} are given away" in job.end_detail
    assert output(service.api("alice"), "id -u") in (str(FIRST), str(LAST))


def test_a_running_job_of_another_user_outlives_the_server_and_is_cancelled_by_the_next(service: Service) -> None:
    bob = service.api("bob")
    name = bob.submit("setsid sleep 600 & echo started; trap '' TERM; while :; do sleep 1; done")
    assert next(bob.follow(name)).data == b"started\n"
    service.kill_server()
    service.ready()
    bob = service.api("bob")
    assert bob.get(name).state == job_pb2.BATCH_STATE_RUNNING
    assert bob.cancel(name).state == job_pb2.BATCH_STATE_CANCELLED


@pytest.mark.parametrize(("uids", "words"), [("0-9999", "user ids go from 1000"), ("65000-66000", "nobody's")])
def test_a_range_that_cannot_be_stops_the_start_with_a_reason(tmp_path: Path, uids: str, words: str) -> None:
    service = Service(tmp_path / "service", JOBS__UIDS=uids)
    with pytest.raises(AssertionError, match=words):
        service.start()
    assert service.stop() == 78

"""Finished batches are removed when they were kept long enough, and not before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import grpc

from jobworker.server.store.layout import Layout
from jobworker.server.store.retention import expired
from tests.harness.service import Api, running
from tests.harness.wait import until


def gone(api: Api, name: str) -> bool:
    try:
        api.get(name)
    except grpc.RpcError as e:
        return e.code() is grpc.StatusCode.NOT_FOUND
    return False


def test_a_finished_batch_is_removed_and_one_that_runs_is_not(tmp_path: Path) -> None:
    with running(tmp_path / "service", RETENTION__FINISHED_SECONDS="1") as service:
        api = service.api()
        finished, unfinished = api.submit("echo x"), api.submit("exec sleep 600")
        api.wait(finished)
        assert api.log(finished) == b"x\n"
        until(lambda: gone(api, finished), "it is removed")
        until(lambda: not any((service.data / "batches" / "alice").iterdir()), "the empty folders are removed")
        assert api.get(unfinished).counts.running == 1
        api.cancel(unfinished)


def test_only_what_ended_before_the_time_is_expired(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.prepare()
    now = time.time()
    for user, age in (("alice", 50), ("alice", 500), ("bob", 5000)):
        stamp = time.gmtime(now - age)
        folder = (
            Path(layout.user_root(user)) / time.strftime("%Y-%m-%d", stamp) / time.strftime("%H%M", stamp) / str(age)
        )
        folder.mkdir(parents=True)
        (folder / "results.jsonl").touch()
        os.utime(folder / "results.jsonl", (now - age, now - age))
    assert {Path(p).name for p in expired(layout, before=now - 100)} == {"500", "5000"}

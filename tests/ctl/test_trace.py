"""`jobctl trace`: what the real service has written is read without it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobworker.v1 import job_pb2
from tests.harness.jobctl import JOBCTL, RUN_SECONDS
from tests.harness.service import Service
from tests.harness.wait import until

JOBS = 60


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In the environment of a service that lies in a folder, and is not there."""
    places = {"JOBWORKER_PATHS__DATA": str(folder / "data"), "JOBWORKER_PATHS__LOGS": str(folder / "logs")}
    environment = {**os.environ, **places, "COLUMNS": "200", "TZ": "UTC"}
    return subprocess.run(
        [JOBCTL, "trace", *arguments], env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    done = run(folder, *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def events(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [moment for moment in found["moments"] if moment["event"] == name]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """What a service leaves: a finished batch of alice's, a cancelled one of admin's, one that was cut off."""
    folder = tmp_path_factory.mktemp("left") / "service"
    service = Service(folder).start()
    try:
        alice, admin = service.api(), service.api("admin")
        batches = {}
        batches["failed"] = alice.submit(
            *[f"exit $(({i} % 20 == 19))" for i in range(JOBS)], batch=job_pb2.BatchOptions(name="nightly")
        )
        alice.wait(batches["failed"])
        admin.get(batches["failed"])
        batches["cancelled"] = admin.submit("sleep 60", *["true"] * 9, batch=job_pb2.BatchOptions(parallelism=1))
        until(lambda: admin.get(batches["cancelled"]).counts.running, "it runs")
        admin.cancel(batches["cancelled"])
        batches["running"] = alice.submit("sleep 60")
        results = folder / "data" / "active" / batches["running"] / "results.jsonl"
        until(lambda: results.exists() and b'"k":"start"' in results.read_bytes(), "that it runs is in its folder")
        log = folder / "logs" / "service.jsonl"
        until(lambda: batches["running"] in log.read_text(), "its call is in the log")
        os.kill(service.child("server"), signal.SIGSTOP)  # so that it writes nothing more
        kept = folder.with_name("kept")
        kept.mkdir()
        for name in ("data", "logs"):
            shutil.copytree(folder / name, kept / name)
        os.kill(service.child("server"), signal.SIGCONT)
    finally:
        service.stop()
    return kept, batches


def test_a_batchs_story_is_told_in_its_order(left: tuple[Path, dict[str, str]]) -> None:
    folder, batches = left
    found = told(folder, batches["failed"])
    assert (found["user"], found["name"], found["state"], found["jobCount"]) == ("alice", "nightly", "FAILED", JOBS)
    assert found["counts"] == {"SUCCEEDED": JOBS - 3, "FAILED": 3}
    assert found["traceId"] == batches["failed"].replace("-", "")
    times = [moment["after"] for moment in found["moments"]]
    assert times == sorted(times)
    order = [moment["event"] for moment in found["moments"] if moment["event"] != "call"]
    assert (order[0], order[1], order[-1]) == ("accepted", "first order", "finished")
    assert events(found, "accepted")[0]["after"] == 0
    calls = {(call["fields"]["method"].rpartition("/")[2], call["fields"]["user"]) for call in events(found, "call")}
    assert {("ExecuteJobs", "alice"), ("WaitBatch", "alice"), ("GetBatch", "admin")} <= calls
    assert not found["damaged"]
    # The first twenty, and those that failed.
    ended = events(found, "job ended")
    assert sorted(end["jobIndex"] for end in ended) == [*range(20), 39, 59]
    assert found["jobsLeftOut"] == JOBS - 22
    (end,) = [end for end in ended if end["jobIndex"] == 39]
    assert end["words"] == "FAILED (exit code 1)"
    assert (end["fields"]["exit_code"], end["fields"]["reason"]) == (1, "exited")
    started = {start["jobIndex"]: start["after"] for start in events(found, "job started")}
    assert all(0 < started[end["jobIndex"]] <= end["after"] for end in ended)


def test_all_of_it_is_told_when_asked_for_and_a_trace_id_is_as_good(left: tuple[Path, dict[str, str]]) -> None:
    folder, batches = left
    found = told(folder, batches["failed"].replace("-", ""), "--all")
    assert len(events(found, "job ended")) == len(events(found, "job started")) == JOBS
    assert found["jobsLeftOut"] == found["linesLeftOut"] == 0


def test_people_are_shown_the_same(left: tuple[Path, dict[str, str]]) -> None:
    folder, batches = left
    done = run(folder, batches["failed"])
    assert done.returncode == 0, done.stderr
    for words in ("nightly", "alice", "accepted", "ExecuteJobs by alice: OK", "GetBatch by admin: OK",
                  "FAILED (exit code 1)", f"... and {JOBS - 22} more jobs: --all"):  # fmt: skip
        assert words in done.stdout
    assert len(done.stdout.splitlines()) < 100


def test_anothers_cancelled_batch_and_one_that_still_runs_are_found_too(left: tuple[Path, dict[str, str]]) -> None:
    folder, batches = left
    found = told(folder, batches["cancelled"])
    assert (found["user"], found["state"]) == ("admin", "CANCELLED")
    (skipped,) = events(found, "jobs skipped")
    assert skipped["fields"] == {"from": 1, "to": 9, "reason": "cancelled"}
    assert next(end["words"] for end in events(found, "job ended")).startswith("CANCELLED (cancelled")
    found = told(folder, batches["running"])
    assert found["state"] == "RUNNING"
    assert len(events(found, "job started")) == 1
    assert not events(found, "finished")


def test_lines_are_found_wherever_a_rotation_has_left_them(left: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, batches = left
    logs = tmp_path / "logs"
    logs.mkdir()
    lines = (folder / "logs" / "service.jsonl").read_bytes().splitlines(keepends=True)
    third = len(lines) // 3
    (logs / "service.jsonl-20260101.gz").write_bytes(gzip.compress(b"".join(lines[:third])))
    (logs / "service.jsonl.1").write_bytes(b"".join(lines[third : 2 * third]))
    (logs / "service.jsonl").write_bytes(b"".join(lines[2 * third :]))
    whole = told(folder, batches["failed"], "--all")
    found = told(folder, batches["failed"], "--all", "--logs", str(logs))
    assert [m["words"] for m in events(found, "call")] == [m["words"] for m in events(whole, "call")]
    assert {m["source"].rpartition(":")[0] for m in events(found, "call")} <= {path.name for path in logs.iterdir()}


def test_what_is_damaged_is_passed_over_and_named(left: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, batches = left
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (results,) = copy.glob(f"data/batches/*/*/*/{batches['failed']}/results.jsonl")
    lines = results.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith(b'{"k":"end","job":5,'))
    lines[at] = b"\x00" * (len(lines[at]) - 1) + b"\n"
    results.write_bytes(b"".join(lines) + b'{"k":"end","jo')
    log = copy / "logs" / "service.jsonl"
    log.write_bytes(log.read_bytes() + f'{{"event": "rpc", "correlation_id": "{batches["failed"]}"'.encode())
    (copy / "logs" / "service.jsonl.2.gz").write_bytes(gzip.compress(b"{}\n" * 100)[:-12])
    found = told(copy, batches["failed"])
    places = " ".join(found["damaged"])
    assert f"results.jsonl:{at + 1}" in places
    assert f"results.jsonl:{len(lines) + 1}" in places
    assert "service.jsonl.2.gz" in places
    assert "service.jsonl:" in places
    assert sorted(end["jobIndex"] for end in events(found, "job ended")) == [*range(5), *range(6, 20), 39, 59]


def test_of_a_batch_that_was_removed_the_log_still_tells(left: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, batches = left
    (tmp_path / "data" / "batches").mkdir(parents=True)
    found = told(folder, batches["failed"], "--data", str(tmp_path / "data"))
    assert "state" not in found
    assert {"call", "batch finished", "job ended"} <= {moment["event"] for moment in found["moments"]}


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (("nonsense",), 2, "is not a CorrelationID"),
    (("019312d4-5c00-7abc-8def-0123456789ab",), 4, "there is no batch"),
    (("ffffffff-ffff-7abc-8def-0123456789ab",), 4, "there is no batch"),
    (("019312d4-5c00-7abc-8def-0123456789ab", "--data", "/nowhere"), 2, "/nowhere: is not a data folder of a service"),
    (("019312d4-5c00-7abc-8def-0123456789ab", "--logs", "/nowhere"), 2, "/nowhere: is not there"),
    (("019312d4-5c00-7abc-8def-0123456789ab", "--logs", "/etc"), 2, "/etc: there is no service.jsonl"),
])  # fmt: skip
def test_what_is_not_there_is_said(
    left: tuple[Path, dict[str, str]], arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run(left[0], *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.root
def test_whoever_may_not_read_the_files_is_told_which(left: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(left[0], tmp_path / "copy"))
    os.chown(copy / "data", 65534, 65534)
    (copy / "data").chmod(0o700)
    places = ["--data", str(copy / "data"), "--logs", str(copy / "logs")]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", JOBCTL, "trace", left[1]["failed"], *places],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert f"{copy}/data/batches: cannot be read: Permission denied" in done.stderr

"""What the oracle sees outside of calls: files, descriptors, a service that stays away, and the marks of jobs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.history import History, Kind, Violation
from tests.faults.jobs import Marks, make_jobs
from tests.faults.recorded import TAG
from tests.faults.report import Report, Row
from tests.faults.scenarios import kills
from tests.faults.settle import undecodable
from tests.faults.trial import Bounds, Open, Trial
from tests.harness.service import Service


@pytest.mark.parametrize(
    "content", [b'{"k": "end"}\n\0\0\0\n', b'{"k": "end"}\n{"k": "e', b'{"k": "end"}\n\xff\n', b"\0"]
)
def test_a_line_of_results_that_cannot_be_decoded_is_noticed(content: bytes) -> None:
    assert undecodable(content)


def test_good_results_are_good() -> None:
    assert not undecodable(b'{"k": "order"}\n{"k": "end"}\n')
    assert not undecodable(b"")


def test_descriptors_that_stay_open_are_noticed_and_those_of_a_cache_are_not() -> None:
    assert not Open(files=[], cached=64, others=30).problem(first=25)
    assert Open(files=[], cached=65, others=30).problem(first=25)
    assert Open(files=["/data/active/id/0.log"], cached=0, others=30).problem(first=25)
    assert Open(files=[], cached=0, others=34).problem(first=25)


def test_what_the_machine_cannot_have_is_named_at_the_end_and_fails_nothing() -> None:
    report = Report()
    report.rows.append(Row("power", "power failure (ext4)", 4, skipped="needs root"))
    assert report.good
    assert report.table().splitlines()[-1] == "LEFT OUT: power failure (ext4): needs root"
    report.rows.append(Row("cut", "cut connections", 4))
    assert not report.good  # it could be had, and nothing was tried


def test_other_bytes_in_logs_are_no_violation_where_the_file_system_shows_what_other_files_had_held() -> None:
    history = History(old_bytes=True)
    kinds = (Kind.NUL_BYTES, Kind.WRONG_LOG, Kind.FOLLOWER_DIFFERS, Kind.STARTED_TWICE)
    assert [v.kind for v in history.accuse(Violation(kind, TAG) for kind in kinds)] == [Kind.STARTED_TWICE]
    assert history.documented == 3


def test_a_log_that_stays_open_in_a_real_process_is_found(tmp_path: Path) -> None:
    place = tmp_path / "data/batches/alice/2026-11-30/0000/id"
    place.mkdir(parents=True)
    with (place / "batch.jsonl").open("w"), (place / "0.log").open("w"):
        seen = Open.of(os.getpid(), tmp_path / "data")
    assert (seen.files, seen.cached) == ([str(place / "0.log")], 1)


def test_jobs_print_what_is_expected_of_them_and_leave_their_marks(service: Service, scratch: Path) -> None:
    marks = scratch / "marks"
    marks.touch()
    marks.chmod(0o666)
    jobs = make_jobs(TAG, 20, random.Random(4))
    assert {job.outcome[0] for job in jobs} == {"exit_code", "signal"}
    assert any(job.bulk for job in jobs)
    api = service.api()
    batch = api.submit(*(job.command(marks) for job in jobs))
    api.wait(batch)
    seen = Marks.read(marks)
    for job, ended in zip(jobs, api.jobs(batch), strict=True):
        assert api.log(batch, job.index) == job.output()
        assert (ended.WhichOneof("outcome"), getattr(ended, job.outcome[0])) == job.outcome
        assert seen.started[TAG, job.index] == seen.ended[TAG, job.index] == 1


def test_a_service_that_does_not_come_back_is_a_violation_and_ends_the_trial(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service/data").write_text("in its way")
    trial = Trial("server", tmp_path, Bounds(count=1, until=0, patience_seconds=1, seed="1"), print)
    trial.run(kills.server)
    assert {violation.kind for violation in trial.history.violations} == {Kind.NOT_BACK}
    assert trial.gave_up

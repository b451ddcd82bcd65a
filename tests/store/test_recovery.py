"""Recovery reads what a death left behind; each test makes the files that one would leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchHeader, BatchOptions, EndReason, JobEnd, JobSpec, JobState, OutputMode
from jobworker.server.store import results
from jobworker.server.store.batchfile import BatchWriter, Digest, encode_spec
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.journal import ThreadSyncer
from jobworker.server.store.layout import DataInUseError, Layout, log_name
from jobworker.server.store.recovery import Recovered, recover

NOW_MS = 1_700_000_000_000
EXITED = JobEnd(
    state=JobState.SUCCEEDED,
    reason=EndReason.EXITED,
    exit_code=0,
    waited=True,
    started_at=5,
    ended_at=9,
    log_bytes=(3,),
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.prepare()
    return made


@pytest.fixture
def write(layout: Layout) -> Callable[..., Path]:
    def write(jobs: int = 4, lines: bytes = b"", *, whole: bool = True) -> Path:
        header = BatchHeader(CorrelationId.make(NOW_MS), "alice", NOW_MS * 10**6, "n", 4, False, {})
        folder = Path(layout.active(header.correlation_id))
        folder.mkdir()
        digest = Digest()
        digest.add_options(BatchOptions())
        writer = BatchWriter(str(folder / "batch.jsonl"), header, digest)
        for i in range(jobs):
            writer.add(encode_spec(JobSpec(command=f"echo {i}")))
        writer.finish()
        writer.close()
        if not whole:
            text = (folder / "batch.jsonl").read_bytes()
            (folder / "batch.jsonl").write_bytes(text[: text.rstrip().rfind(b"\n") + 10])
        if lines:
            (folder / "results.jsonl").write_bytes(lines)
        return folder

    return write


class Reports(list[tuple[str, str]]):
    def __call__(self, path: str, problem: str) -> None:
        self.append((path, problem))


def read(layout: Layout, boot: str = "b1") -> tuple[Recovered, Reports]:
    reports = Reports()
    syncer = ThreadSyncer()
    try:
        return recover(layout=layout, syncer=syncer, boot=boot, report=reports), reports
    finally:
        syncer.close()


def test_a_batch_without_its_closing_line_was_never_acknowledged_and_is_removed(layout, write) -> None:
    folder = write(whole=False)
    found, _ = read(layout)
    assert found.batches == []
    assert found.removed == 1
    assert not folder.exists()


def test_an_empty_folder_is_removed(layout: Layout) -> None:
    Path(layout.active(CorrelationId.make(NOW_MS))).mkdir()
    found, reports = read(layout)
    assert (found.removed, reports) == (1, [])


def test_a_batch_that_never_started_is_whole_and_starts_at_its_first_job(layout, write) -> None:
    write()
    found, _ = read(layout)
    batch = found.batches[0]
    assert batch.counts() == {JobState.QUEUED: 4}
    assert batch.next == 0
    assert [batch.reader.spec(i).command for i in range(4)] == [f"echo {i}" for i in range(4)]


def test_what_ended_stays_ended_and_what_was_ordered_waits_for_the_executor(layout, write) -> None:
    lines = results.mark_line(4, "b1") + results.order_line([0, 1, 2], "e1", 1)
    lines += results.start_line(0, 5) + results.end_line(0, EXITED) + results.start_line(1, 6)
    write(lines=lines)
    found, _ = read(layout)
    batch = found.batches[0]
    assert batch.running == {1: "e1", 2: "e1"}
    assert batch.next == 3
    assert batch.job_state(0) is JobState.SUCCEEDED
    assert batch.job_state(1) is JobState.RUNNING
    assert batch.job_state(2) is JobState.QUEUED
    assert batch.job(0).end == EXITED
    assert found.lost == []


def test_after_the_machines_death_every_job_below_the_mark_without_an_end_is_lost(layout, write) -> None:
    lines = results.mark_line(3, "b1") + results.order_line([0], "e1", 1) + results.end_line(0, EXITED)
    write(lines=lines)
    found, _ = read(layout, boot="b2")
    assert [index for _, index in found.lost] == [1, 2]
    assert found.batches[0].next == 3


def test_after_the_machines_death_a_batch_without_a_mark_is_kept(layout, write) -> None:
    write()
    found, _ = read(layout, boot="b2")
    assert found.lost == []
    assert found.batches[0].counts() == {JobState.QUEUED: 4}


def test_a_torn_last_line_is_cut_off_before_anything_is_appended(layout, write) -> None:
    whole = results.mark_line(4, "b1") + results.order_line([0], "e1", 1)
    folder = write(lines=whole + results.end_line(0, EXITED)[:-7])
    found, reports = read(layout)
    assert (folder / "results.jsonl").read_bytes() == whole
    assert found.batches[0].running == {0: "e1"}
    assert "torn" in reports[0][1]


def test_a_damaged_line_elsewhere_is_reported_and_the_others_count(layout, write) -> None:
    lines = results.mark_line(4, "b1") + b'{"k":"or\x00\xff garbage\n' + results.order_line([0], "e1", 1)
    lines += results.end_line(0, EXITED)
    write(lines=lines)
    found, reports = read(layout)
    assert found.batches[0].job_state(0) is JobState.SUCCEEDED
    assert "damaged line" in reports[0][1]


def test_a_batch_that_cannot_be_read_is_set_aside_and_the_others_recover(layout, write) -> None:
    write()
    broken = write()
    text = (broken / "batch.jsonl").read_bytes()
    (broken / "batch.jsonl").write_bytes(b"X" + text)
    found, reports = read(layout)
    assert len(found.batches) == 1
    assert found.set_aside == 1
    assert not broken.exists()
    assert Path(reports[0][0]).is_dir()


def test_skipped_ranges_and_single_ends_are_both_read_back(layout, write) -> None:
    lines = results.skip_line(1, 3, JobState.SKIPPED, EndReason.CANCELLED, 7)
    write(lines=lines)
    batch = read(layout)[0].batches[0]
    assert batch.counts() == {JobState.QUEUED: 2, JobState.SKIPPED: 2}
    assert batch.job(1).end is not None
    assert batch.next == 0


def test_a_second_server_is_refused_the_data_folder(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(DataInUseError, match="in use"):
        Layout(tmp_path / "data").prepare()


def test_a_finished_batch_without_its_last_line_is_summed_up_from_its_ends(layout, write) -> None:
    folder = write(
        jobs=2, lines=results.end_line(1, EXITED) + results.skip_line(0, 1, JobState.SKIPPED, EndReason.CANCELLED, 3)
    )
    batch = FinishedBatch(str(folder))
    assert batch.counts() == {JobState.SUCCEEDED: 1, JobState.SKIPPED: 1}
    assert (batch.started_at, batch.ended_at) == (5, 9)
    assert batch.job_state(0) is JobState.SKIPPED


def test_every_field_of_an_end_survives_the_file() -> None:
    line = json.loads(results.end_line(7, EXITED))
    assert results.decode_end(line) == EXITED


def test_logs_of_a_large_batch_are_spread_over_folders() -> None:
    assert log_name(12, OutputMode.MERGED.streams[0], 1000) == "12.log"
    assert log_name(12345, OutputMode.SEPARATE.streams[1], 20000) == "0012/12345.err"

"""Recovery reads what a death left behind; each test makes the files that one would leave."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from jobworker.server.core.records import Ended, Ordered, Record, Skipped, Started
from jobworker.server.errors import DamagedError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import (
    BatchHeader,
    BatchOptions,
    EndReason,
    JobEnd,
    JobSpec,
    JobState,
    LogStream,
    OutputMode,
)
from jobworker.server.scheduling.lost import lost_end
from jobworker.server.store import results
from jobworker.server.store.batchfile import BatchWriter, Digest, encode_spec
from jobworker.server.store.commitlog import segment_path
from jobworker.server.store.disk import Disk
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.frames import accept_frame, gone_frame, group_frame, results_frame, segment_frame
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
        writer = BatchWriter(header, digest, disk=Disk(), create=lambda: -1)
        for i in range(jobs):
            writer.add(encode_spec(JobSpec(command=f"echo {i}")))
        (folder / "batch.jsonl").write_bytes(writer.finish())
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


def log_of(layout: Layout, *frames: bytes, number: int = 1, boot: str = "b1") -> None:
    """A segment that says so."""
    data = b"".join(frames)
    path = segment_path(layout.commit_root, number)
    Path(path).write_bytes(segment_frame(number, boot) + group_frame(len(data)) + data)


def read(layout: Layout, boot: str = "b1") -> tuple[Recovered, Reports]:
    reports = Reports()
    return recover(layout=layout, disk=Disk(), boot=boot, report=reports), reports


ORDERED = Ordered((0, 1, 2), "e1", 1)
RAN = [ORDERED, Started(0, 5), Ended(0, EXITED), Started(1, 6)]


def lines(*records: Record) -> bytes:
    return b"".join(map(results.encode, records))


# -- of the version before the commit log: its folders are all there is


def test_a_batch_without_its_closing_line_was_never_acknowledged_and_is_removed(layout, write) -> None:
    folder = write(whole=False)
    found, _ = read(layout)
    assert found.batches == []
    assert found.removed == 1
    assert not folder.exists()


def test_a_batch_whose_closing_line_is_damaged_and_whose_jobs_ran_is_set_aside(layout, write) -> None:
    folder = write(whole=False, lines=lines(*RAN))
    found, reports = read(layout)
    assert (found.batches, found.removed, found.set_aside) == ([], 0, 1)
    assert not folder.exists()
    assert (Path(reports[0][0]) / "results.jsonl").read_bytes() == lines(*RAN)


def test_an_empty_folder_is_removed(layout: Layout) -> None:
    Path(layout.active(CorrelationId.make(NOW_MS))).mkdir()
    found, reports = read(layout)
    assert (found.removed, reports) == (1, [])


def test_a_batch_that_never_started_is_whole_and_starts_at_its_first_job(layout, write) -> None:
    write()
    found, _ = read(layout)
    batch = found.batches[0]
    assert batch.counts() == {JobState.QUEUED: 4}
    assert batch.recorded.next_jobs(1) == (0,)
    assert [batch.reader.spec(i).command for i in range(4)] == [f"echo {i}" for i in range(4)]


def mark(below: int, boot: str) -> bytes:
    return b'{"k":"mark","below":%d,"boot":"%b"}\n' % (below, boot.encode())


def test_what_ended_stays_ended_and_what_was_ordered_waits_for_the_executor(layout, write) -> None:
    write(lines=mark(4, "b1") + lines(*RAN))
    found, _ = read(layout)
    check_ran(found)
    assert found.lost == []


def check_ran(found: Recovered) -> None:
    batch = found.batches[0]
    assert batch.recorded.running == {1: "e1", 2: "e1"}
    assert batch.recorded.next_jobs(4) == (3,)
    assert batch.job_state(0) is JobState.SUCCEEDED
    assert batch.job_state(1) is JobState.RUNNING
    assert batch.job_state(2) is JobState.QUEUED
    assert batch.job(0).end == EXITED


def test_after_the_machines_death_every_job_below_the_mark_without_an_end_is_lost(layout, write) -> None:
    write(lines=mark(3, "b1") + lines(Ordered((0,), "e1", 1), Ended(0, EXITED)))
    found, _ = read(layout, boot="b2")
    assert [index for _, index in found.lost] == [1, 2]
    assert found.batches[0].recorded.next_jobs(4) == (3,)


def test_a_torn_last_line_is_cut_off_before_anything_is_appended(layout, write) -> None:
    whole = mark(4, "b1") + lines(Ordered((0,), "e1", 1))
    folder = write(lines=whole + lines(Ended(0, EXITED))[:-7])
    found, reports = read(layout)
    assert (folder / "results.jsonl").read_bytes() == whole
    assert found.batches[0].recorded.running == {0: "e1"}
    assert "torn" in reports[0][1]


def test_a_damaged_line_elsewhere_is_reported_and_the_others_count(layout, write) -> None:
    write(lines=b'{"k":"or\x00\xff garbage\n' + lines(Ordered((0,), "e1", 1), Ended(0, EXITED)))
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
    write(lines=lines(Skipped(1, 3, EndReason.CANCELLED, 7)))
    batch = read(layout)[0].batches[0]
    assert batch.counts() == {JobState.QUEUED: 2, JobState.SKIPPED: 2}
    assert batch.job(1).end is not None
    assert batch.recorded.next_jobs(4) == (0, 3)


# -- with a commit log


def test_a_batch_that_is_in_the_log_alone_gets_its_folder_again(layout, write) -> None:
    folder = write()
    name, content = folder.name, (folder / "batch.jsonl").read_bytes()
    shutil.rmtree(folder)
    log_of(layout, accept_frame(name, 4, content), results_frame(name, 0, lines(*RAN)))
    found, reports = read(layout)
    check_ran(found)
    assert reports == []
    assert (folder / "batch.jsonl").read_bytes() == content
    assert (folder / "results.jsonl").read_bytes() == lines(*RAN)


@pytest.mark.parametrize("there", [b"", b"\0" * 300, lines(*RAN)[:50], lines(*RAN) + b"\0\0\0", lines(ORDERED) + b"{"])
def test_whatever_the_folder_has_of_the_results_becomes_what_the_log_says(layout, write, there: bytes) -> None:
    folder = write(lines=there)
    content = (folder / "batch.jsonl").read_bytes()
    (folder / "batch.jsonl").write_bytes(content[:40])
    frames = [
        results_frame(folder.name, 0, lines(ORDERED)),
        results_frame(folder.name, len(lines(ORDERED)), lines(*RAN[1:])),
    ]
    log_of(layout, accept_frame(folder.name, 4, content), *frames)
    found, reports = read(layout)
    check_ran(found)
    assert reports == []
    assert (folder / "results.jsonl").read_bytes() == lines(*RAN)


def test_what_older_segments_said_is_in_the_files(layout, write) -> None:
    folder = write(lines=lines(*RAN))
    log_of(layout, results_frame(folder.name, len(lines(*RAN)), b""), number=7)
    found, reports = read(layout)
    check_ran(found)
    assert (found.segments, reports) == ([7], [])


def test_a_folder_that_the_log_knows_nothing_of_was_never_acknowledged(layout, write) -> None:
    folder = write()
    log_of(layout)
    found, _ = read(layout)
    assert (found.batches, found.removed) == ([], 1)
    assert not folder.exists()


def test_where_the_log_is_damaged_nothing_is_removed(layout, write) -> None:
    folder = write()
    frame = results_frame(folder.name, 0, lines(ORDERED))
    log_of(layout, frame, results_frame("01900000-0000-7000-8000-000000000000", 0, b""))
    path = Path(segment_path(layout.commit_root, 1))
    data = path.read_bytes()
    at = data.index(b'"order"')
    path.write_bytes(data[:at] + b"X" + data[at + 1 :] + group_frame(0))
    found, reports = read(layout)
    assert (found.batches, found.removed, found.set_aside) == ([], 0, 1)
    assert "the commit log cannot be read" in reports[0][1]
    assert not folder.exists()


def test_after_the_machines_death_what_was_ordered_is_lost_and_nothing_else(layout, write) -> None:
    folder = write()
    log_of(layout, results_frame(folder.name, 0, lines(*RAN)))
    found, _ = read(layout, boot="b2")
    assert [index for _, index in found.lost] == [1, 2]
    assert found.batches[0].recorded.next_jobs(4) == (3,)


@pytest.mark.parametrize(
    ("content", "gaps"),
    [
        (b"a\0\0b", []),  # a job's own
        (b"abc" + bytes(20), [(3, 23)]),
        (b"a" * 4000 + bytes(96) + b"b" * 10, [(4000, 4096)]),
        (b"a" * 10 + bytes(2 * 4096 - 10) + b"b" + bytes(50), [(10, 8192), (8193, 8243)]),
        (b"a" * (1 << 20) + bytes(5000), [(1 << 20, (1 << 20) + 5000)]),
        (bytes(4097) + b"b", [(0, 4096)]),
        (bytes(3), [(0, 3)]),
        (b"", []),
    ],
)
def test_after_the_machines_death_bytes_that_nobody_can_vouch_for_are_gaps(layout, write, content, gaps) -> None:
    folder = write(jobs=5)
    log_of(layout, results_frame(folder.name, 0, lines(*RAN)))
    for index in range(5):
        (folder / f"{index}.log").write_bytes(content)
    found, reports = read(layout, boot="b1")
    assert not list(folder.glob("*.gaps"))  # the machine lives, and so do the bytes
    found.batches[0].close()
    found, reports = read(layout, boot="b2")
    (batch,) = found.batches
    for index in range(3):
        assert batch.log_gaps(index, LogStream.MERGED) == gaps
    assert batch.log_gaps(3, LogStream.MERGED) == []  # queued: it has a log from now on
    assert reports == []


def test_what_was_dropped_of_a_log_is_none_of_what_the_machine_took_and_is_not_read(layout, write) -> None:
    folder = write(jobs=5)
    log_of(layout, results_frame(folder.name, 0, lines(*RAN)))
    dropped, hole = 1 << 40, 1 << 41  # read, they would take hours
    with (folder / "1.log").open("wb") as file:
        file.seek(dropped)
        file.write(b"a" * 4000)
        file.seek(hole)
        file.write(b"b" * 10 + bytes(20))
    found, reports = read(layout, boot="b2")
    (batch,) = found.batches
    assert batch.log_gaps(1, LogStream.MERGED) == [(dropped + 4000, hole), (hole + 10, hole + 30)]
    end = lost_end(batch, 1, reason=EndReason.MACHINE_LOST, at=9)
    assert (end.log_bytes, end.dropped_head) == ((hole + 30,), (dropped,))
    assert reports == []


def test_logs_that_a_checkpoint_made_durable_are_vouched_for(layout, write) -> None:
    folder = write(lines=lines(*RAN))
    log_of(layout, results_frame(folder.name, len(lines(*RAN)), b""), number=7)
    for index in range(3):
        (folder / f"{index}.log").write_bytes(b"abc\0")
    found, _ = read(layout, boot="b2")
    ended = [index for index in range(3) if found.batches[0].end_offset(index) is not None]
    assert ended
    assert {path.name for path in folder.glob("*.gaps")} == {f"{i}.log.gaps" for i in range(3) if i not in ended}


def test_a_batch_that_had_finished_since_the_last_checkpoint_is_looked_through_as_well(layout, write) -> None:
    ends = lines(Ordered((0,), "e1", 1), Ended(0, EXITED))
    folder = write(jobs=1, lines=ends)
    log_of(layout, results_frame(folder.name, 0, ends))
    (folder / "0.log").write_bytes(b"a\0\0")
    place = Path(layout.finished("alice", CorrelationId.parse(folder.name)))
    place.parent.mkdir(parents=True)
    folder.rename(place)
    found, reports = read(layout, boot="b2")
    assert (found.batches, reports) == ([], [])
    assert FinishedBatch(str(place)).log_gaps(0, LogStream.MERGED) == [(1, 3)]


def test_a_batch_that_was_removed_is_not_made_again(layout, write) -> None:
    folder = write()
    content = (folder / "batch.jsonl").read_bytes()
    shutil.rmtree(folder)
    log_of(layout, accept_frame(folder.name, 4, content), gone_frame(folder.name))
    found, reports = read(layout)
    assert (found.batches, reports) == ([], [])
    assert not folder.exists()


def test_a_log_of_a_newer_version_is_refused(layout, write) -> None:
    write()
    data = segment_frame(1, "b1").replace(b'"v":1', b'"v":2')
    rest = data[len(b'{"c":"00000000",') : -1]
    Path(segment_path(layout.commit_root, 1)).write_bytes(b'{"c":"%08x",%b\n' % (zlib.crc32(rest), rest))
    with pytest.raises(DamagedError, match="newer"):
        read(layout)


def test_a_second_server_is_refused_the_data_folder(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(DataInUseError, match="in use"):
        Layout(tmp_path / "data").prepare()


def test_a_finished_batch_without_its_last_line_is_summed_up_from_its_ends(layout, write) -> None:
    folder = write(jobs=2, lines=lines(Ended(1, EXITED), Skipped(0, 1, EndReason.CANCELLED, 3)))
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

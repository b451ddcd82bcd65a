"""A job that prints more than its log may have, by its log policy: what is stored, told and streamed of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jobworker.executor.pump import LEAST_STEP_BYTES, PIECE_BYTES, PUNCH_ALIGNMENT
from jobworker.v1 import job_pb2, query_pb2, schedule_pb2
from tests.harness.admin import Admin
from tests.harness.jobctl import JOBCTL, Jobctl
from tests.harness.service import Api, Service, running
from tests.harness.wait import until

LIMIT = 100_000
SLACK_BYTES = LEAST_STEP_BYTES + PIECE_BYTES + PUNCH_ALIGNMENT
FIRST = 1_000_000_000
LINE = 11


def request(command: str, policy: str = "", *, limit: int = LIMIT, **fields: Any) -> schedule_pb2.JobRequest:
    return schedule_pb2.JobRequest(
        command=command,
        limits=job_pb2.Limits(log_bytes=limit),
        log_policy=job_pb2.LogPolicy.Value(f"LOG_POLICY_{policy}") if policy else 0,  # type: ignore[arg-type]
        **fields,
    )


def seq(lines: int) -> str:
    """Prints lines of which each is another, and as long as all."""
    return f"seq {FIRST} {FIRST + lines - 1}"


def printed(begin: int, stop: int) -> bytes:
    """The bytes [begin, stop) of what `seq` prints."""
    first = begin // LINE
    lines = b"".join(b"%d\n" % (FIRST + number) for number in range(first, -(-stop // LINE)))
    return lines[begin - first * LINE : stop - first * LINE]


class Read:
    """What a follower got of one log of `seq`: each byte is looked at as it comes."""

    def __init__(self, begin: int = 0) -> None:
        self.offset = begin
        self.gaps: list[tuple[int, int]] = []
        self.end: query_pb2.LogEnd | None = None

    def take(self, chunks: Iterable[query_pb2.LogChunk]) -> Read:
        for chunk in chunks:
            assert chunk.offset == self.offset
            if chunk.HasField("gap"):
                self.gaps.append((chunk.offset, chunk.gap.length))
                self.offset += chunk.gap.length
                assert "keeps the end" in chunk.gap.reason
            elif chunk.HasField("end"):
                self.end = chunk.end
                assert chunk.end.total_bytes == self.offset
            else:
                assert chunk.data == printed(self.offset, self.offset + len(chunk.data))
                self.offset += len(chunk.data)
        return self


@pytest.fixture
def jobctl(shared_service: Service, tmp_path: Path) -> Jobctl:
    return Jobctl(shared_service, tmp_path / "cache").login()


def log_file(service: Service, batch: str) -> Path:
    """Of a finished batch with one job."""
    until(lambda: not (service.data / "active" / batch).exists(), "it is stored")
    (path,) = service.data.rglob(f"{batch}/**/0.log")
    return path


def test_the_end_of_a_flood_is_kept_and_all_that_is_told_of_it_agrees(alice: Api, shared_service: Service) -> None:
    lines = 400_000
    batch = alice.submit(request(seq(lines), "TRUNCATE_HEAD"))
    alice.wait(batch)
    (job,) = alice.jobs(batch)
    total = lines * LINE
    assert (job.state, job.exit_code, job.logs[0].bytes) == (job_pb2.JOB_STATE_SUCCEEDED, 0, total)
    head = job.logs[0].dropped_head_bytes
    assert LIMIT <= total - head <= LIMIT + SLACK_BYTES
    assert job.logs[0].dropped_tail_bytes == 0
    whole = Read().take(alice.follow(batch))
    assert (whole.gaps, whole.offset) == ([(0, head)], total)
    assert whole.end is not None
    assert whole.end.dropped_bytes == 0
    for begin in (1, head - 1, head, head + 1, total):
        cursor = query_pb2.LogCursor(job_index=0, offset=begin)
        rest = Read(begin).take(alice.follow(batch, cursors=[cursor]))
        assert (rest.gaps, rest.offset) == ([(begin, head - begin)] if begin < head else [], total)
    tail = list(alice.follow(batch, tail_lines=3))
    assert (tail[0].offset, tail[0].data) == (total - 3 * LINE, printed(total - 3 * LINE, total))
    found = list(alice.query.SearchJob(query_pb2.SearchJobRequest(correlation_id=batch), **alice.call()))
    assert "".join(message.log_output for message in found).encode() == printed(head, total)
    assert found[0].log_offset == head
    assert found[-1].job.logs[0].dropped_head_bytes == head
    path = log_file(shared_service, batch)
    assert path.stat().st_size == total
    assert path.stat().st_blocks * 512 <= LIMIT + SLACK_BYTES
    lines_read = map(json.loads, (path.parent / "results.jsonl").read_text().splitlines())
    ends = [line for line in lines_read if line["k"] == "end"]
    assert [(line["logs"], line["dropped_head"]) for line in ends] == [([total], [head])]
    assert "dropped_tail" not in ends[0]


def test_the_beginning_of_a_flood_is_kept_and_the_job_runs_on(alice: Api, jobctl: Jobctl) -> None:
    lines = 100_000
    batch = alice.submit(request(f"{seq(lines)}; exit 7", "TRUNCATE_TAIL"))
    alice.wait(batch)
    (job,) = alice.jobs(batch)
    dropped = lines * LINE - LIMIT
    assert (job.end_reason, job.exit_code) == (job_pb2.END_REASON_EXITED, 7)
    assert (job.logs[0].bytes, job.logs[0].dropped_head_bytes, job.logs[0].dropped_tail_bytes) == (LIMIT, 0, dropped)
    read = Read().take(alice.follow(batch))
    assert (read.gaps, read.offset) == ([], LIMIT)
    assert read.end is not None
    assert read.end.dropped_bytes == dropped
    done = jobctl("logs", batch)
    assert done.stdout == printed(0, LIMIT)
    assert f"job 0: bytes {LIMIT} to {LIMIT + dropped} are gone" in done.stderr.decode()
    assert "97.7K (977K dropped)" in jobctl("get", batch).stdout.decode()


def test_jobctl_chooses_the_policy_and_says_what_is_gone(jobctl: Jobctl, alice: Api, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    own = {"command": seq(50_000), "limits": {"logBytes": LIMIT}, "logPolicy": "LOG_POLICY_TRUNCATE_TAIL"}
    other = {"command": seq(50_000), "limits": {"logBytes": LIMIT}}
    jobs.write_text(f"{json.dumps(own)}\n{json.dumps(other)}\n")
    batch = jobctl.id_of("--log-policy", "truncate-head", "-f", str(jobs))
    alice.wait(batch)
    kept, cut = alice.jobs(batch)
    assert (kept.logs[0].bytes, kept.logs[0].dropped_head_bytes) == (LIMIT, 0)
    head = cut.logs[0].dropped_head_bytes
    assert head > 0
    done = jobctl("logs", "-j", "1", batch)
    assert done.stdout == printed(head, 50_000 * LINE)
    assert f"job 1: bytes 0 to {head} are gone: the job printed more" in done.stderr.decode()
    assert jobctl("run", "--log-policy", "truncate_head", "true").returncode == 2


def test_followers_in_the_middle_of_a_flood_get_exact_gaps_and_go_on(alice: Api, scratch: Path) -> None:
    """One reads as fast as it can; one stops until what it has not read is gone."""
    go, lines = scratch / "go", 4_000_000
    command = f"seq {FIRST} {FIRST + 9}; until [ -e {go} ]; do sleep 0.05; done; seq {FIRST + 10} {FIRST + lines - 1}"
    batch = alice.submit(request(command, "TRUNCATE_HEAD"))
    slow, fast = alice.follow(batch), alice.follow(batch)
    begun = Read().take([next(slow)])
    assert 0 < begun.offset <= 10 * LINE
    go.touch()
    read = Read().take(fast)
    (job,) = alice.jobs(batch)
    total = lines * LINE
    begun.take(slow)
    for each in (read, begun):
        assert each.offset == total
        assert each.end is not None
    assert job.logs[0].bytes == total
    assert begun.gaps
    assert sum(length for _, length in begun.gaps) <= job.logs[0].dropped_head_bytes


def test_a_running_job_tells_what_is_gone_and_a_server_that_died_changes_nothing(service: Service) -> None:
    api = service.api()
    batch = api.submit(request(f"{seq(300_000)}; exec sleep 600", "TRUNCATE_HEAD"))
    total = 300_000 * LINE

    def job() -> job_pb2.Job:
        wanted = query_pb2.SearchJobRequest(correlation_id=batch, omit_log=True, snapshot=True)
        (answer,) = api.query.SearchJob(wanted, **api.call())
        return answer.job

    until(lambda: job().logs[0].bytes == total, "all is printed")
    head = job().logs[0].dropped_head_bytes
    assert LIMIT <= total - head <= LIMIT + SLACK_BYTES
    service.kill_server()
    service.ready()
    until(lambda: api.get(batch).counts.running == 1, "it runs on")
    assert job().logs[0].dropped_head_bytes == head
    chunks = api.follow(batch, cursors=[query_pb2.LogCursor(job_index=0, offset=5)], no_follow=True)
    read = Read(5).take(chunks)
    assert (read.gaps, read.offset) == ([(5, head - 5)], total)
    os.kill(service.child("executor"), signal.SIGKILL)
    api.wait(batch)
    lost = job()
    assert lost.state == job_pb2.JOB_STATE_LOST
    assert (lost.logs[0].bytes, lost.logs[0].dropped_head_bytes) == (total, head)
    read = Read().take(api.follow(batch))
    assert (read.gaps, read.offset) == ([(0, head)], total)
    until(lambda: not any((service.data / "active").iterdir()), "it is stored")
    service.kill_server()
    service.ready()
    assert job() == lost
    service.stop()
    command = [sys.executable, "-m", "jobworker.server.cli", "fsck"]
    checked = subprocess.run(command, env=service.environment(), capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    traced = subprocess.run(
        [JOBCTL, "trace", batch, "-o", "json"], env=service.environment(), capture_output=True, text=True, check=True
    )
    (ended,) = [moment for moment in json.loads(traced.stdout)["moments"] if moment["event"] == "job ended"]
    assert (ended["fields"]["log_bytes"], ended["fields"]["dropped_bytes"]) == (total, head)


def test_separate_outputs_keep_their_ends_apart(alice: Api) -> None:
    command = f"echo first >&2; {seq(200_000)}; echo last >&2"
    batch = alice.submit(request(command, "TRUNCATE_HEAD", output=job_pb2.OUTPUT_MODE_SEPARATE))
    alice.wait(batch)
    (job,) = alice.jobs(batch)
    out, error = job.logs
    assert LIMIT // 2 <= out.bytes - out.dropped_head_bytes <= LIMIT // 2 + SLACK_BYTES
    assert (error.bytes, error.dropped_head_bytes) == (11, 0)
    assert alice.log(batch, stream=job_pb2.LOG_STREAM_STDERR) == b"first\nlast\n"


def test_the_service_has_a_default_and_a_job_its_own_word(tmp_path: Path) -> None:
    with running(tmp_path / "service", JOBS__LOG_BYTES=str(LIMIT), JOBS__LOG_POLICY="truncate_tail") as service:
        api = service.api()
        command = f"{seq(50_000)}; exit 3"
        batch = api.submit(command, request(command, "END"), request(command, "TRUNCATE_HEAD"))
        api.wait(batch)
        jobs = api.jobs(batch)
        assert [job.end_reason for job in jobs] == [
            job_pb2.END_REASON_EXITED, job_pb2.END_REASON_LOG_LIMIT, job_pb2.END_REASON_EXITED,
        ]  # fmt: skip
        assert [(job.logs[0].dropped_head_bytes > 0, job.logs[0].dropped_tail_bytes > 0) for job in jobs] == [
            (False, True), (False, jobs[1].logs[0].dropped_tail_bytes > 0), (True, False),
        ]  # fmt: skip
        admin = Admin(service)
        admin.update({"jobs": {"log_policy": "truncate_head"}})
        batch = api.submit(command)
        api.wait(batch)
        assert api.jobs(batch)[0].logs[0].dropped_head_bytes > 0

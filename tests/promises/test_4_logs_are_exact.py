"""A log is exactly the bytes that passed the job's output until it was final, in order, whatever opened it; every
follower sees the same bytes from any offset, and its stream ends only after the last byte."""

from __future__ import annotations

import hashlib
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import job_pb2, query_pb2, schedule_pb2
from tests.harness.service import Api, Service
from tests.harness.wait import until

PYTHON = "/usr/bin/env", "python3", "-c"


def python(code: str, **fields: object) -> schedule_pb2.JobRequest:
    """A job that runs Python."""
    return schedule_pb2.JobRequest(argv=[*PYTHON, code], **fields)


def test_every_byte_value_comes_through_and_a_last_line_needs_no_newline(alice: Api) -> None:
    batch = alice.submit(python("import os; os.write(1, bytes(range(256)) * 300)"))
    assert alice.log(batch) == bytes(range(256)) * 300


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/stderr", "/proc/self/fd/1", "/dev/fd/2"])
def test_opening_the_output_again_in_the_middle_of_a_log_loses_nothing(alice: Api, path: str) -> None:
    batch = alice.submit(f"echo one; echo two > {path}; echo three; echo four | tee {path} >&2; echo five")
    assert alice.log(batch) == b"one\ntwo\nthree\nfour\nfour\nfive\n"


def test_both_outputs_keep_their_exact_order_in_one_log(alice: Api) -> None:
    batch = alice.submit("for i in $(seq 200); do echo out $i; echo err $i >&2; done")
    assert alice.log(batch) == b"".join(b"out %d\nerr %d\n" % (i, i) for i in range(1, 201))


def test_separate_output_is_two_logs(alice: Api) -> None:
    job = schedule_pb2.JobRequest(command="echo a; echo b >&2; echo c", output=job_pb2.OUTPUT_MODE_SEPARATE)
    batch = alice.submit(job)
    alice.wait(batch)
    assert alice.log(batch, stream=job_pb2.LOG_STREAM_STDOUT) == b"a\nc\n"
    assert alice.log(batch, stream=job_pb2.LOG_STREAM_STDERR) == b"b\n"
    assert [(s.stream, s.bytes) for s in alice.jobs(batch)[0].logs] == [
        (job_pb2.LOG_STREAM_STDOUT, 4),
        (job_pb2.LOG_STREAM_STDERR, 2),
    ]


def test_output_through_a_process_substitution_is_whole(alice: Api) -> None:
    batch = alice.submit(
        schedule_pb2.JobRequest(
            argv=["bash", "-c", "exec > >(tee /dev/stderr | cat); for i in $(seq 50); do echo $i; done"]
        )
    )
    lines = alice.log(batch).split()
    assert sorted(lines, key=int) == sorted([b"%d" % i for i in range(1, 51)] * 2, key=int)


def test_a_job_that_closes_its_output_lives_on(alice: Api, scratch: Path) -> None:
    go = scratch / "go"
    batch = alice.submit(f"echo before; exec >&- 2>&-; until [ -e {go} ]; do sleep 0.02; done; exit 6")
    until(lambda: alice.get(batch).counts.running == 1, "it runs")
    go.touch()
    alice.wait(batch)
    assert alice.jobs(batch)[0].exit_code == 6
    assert alice.log(batch) == b"before\n"


def test_five_hundred_quick_jobs_of_100_kb_reach_their_followers_whole(alice: Api) -> None:
    size = 100_000
    jobs = [f"head -c {size} /dev/zero | tr '\\0' '{chr(97 + i % 26)}'" for i in range(500)]
    batch = alice.submit(*jobs, batch=job_pb2.BatchOptions(parallelism=8))
    seen = {i: bytearray() for i in range(500)}
    ended = set()
    for chunk in alice.follow(batch, timeout=240):
        assert chunk.job_index not in ended
        if chunk.WhichOneof("payload") == "end":
            assert chunk.end.total_bytes == size
            ended.add(chunk.job_index)
        else:
            assert chunk.offset == len(seen[chunk.job_index])
            seen[chunk.job_index] += chunk.data
    assert len(ended) == 500
    for i, data in seen.items():
        assert data == bytes([97 + i % 26]) * size


def test_a_hundred_followers_of_one_running_job_see_the_same_bytes_from_any_offset(shared_service: Service) -> None:
    api = shared_service.api()
    code = "import os,time\nfor i in range(400):\n os.write(1, (b'%06d ' % i) * 100)\n time.sleep(0.002)"
    batch = api.submit(python(code))
    expected = b"".join((b"%06d " % i) * 100 for i in range(400))

    def follow(number: int) -> bytes:
        until(lambda: sum(s.bytes for s in first_job(api, batch).logs) >= number * 500, "enough output")
        cursor = query_pb2.LogCursor(job_index=0, offset=number * 500)
        data = bytearray()
        for chunk in api.follow(batch, cursors=[cursor], job_index=[0]):
            assert chunk.offset == number * 500 + len(data)
            data += chunk.data
        return bytes(data)

    with ThreadPoolExecutor(100) as pool:
        for number, data in enumerate(pool.map(follow, range(100))):
            assert data == expected[number * 500 :]


def first_job(api: Api, batch: str) -> job_pb2.Job:
    """Job 0 as it is now."""
    request = query_pb2.SearchJobRequest(correlation_id=batch, job_index=[0], omit_log=True, snapshot=True)
    job: job_pb2.Job = next(iter(api.query.SearchJob(request, **api.call()))).job
    return job


def test_a_follower_that_joins_late_and_one_that_resumes_get_the_rest_without_a_byte_twice(alice: Api) -> None:
    batch = alice.submit("for i in $(seq 100); do echo line $i; sleep 0.01; done")
    expected = b"".join(b"line %d\n" % i for i in range(1, 101))
    got = bytearray()
    for _ in range(30):
        cursor = query_pb2.LogCursor(job_index=0, offset=len(got))
        stream = alice.follow(batch, cursors=[cursor])
        ended = False
        for chunk in stream:
            got += chunk.data
            ended = chunk.WhichOneof("payload") == "end"
            if not ended:
                stream.cancel()
                break
        if ended:
            break
    else:
        stream = alice.follow(batch, cursors=[query_pb2.LogCursor(job_index=0, offset=len(got))])
        got += b"".join(chunk.data for chunk in stream)
    assert bytes(got) == expected
    assert alice.log(batch) == expected


def test_the_end_comes_at_once_for_a_batch_that_finished_long_ago(service: Service) -> None:
    api = service.api()
    batch = api.submit("echo done", "false", "no-such-program-anywhere")
    api.wait(batch)
    service.kill_server()
    ends = {c.job_index: c.end for c in api.follow(batch) if c.WhichOneof("payload") == "end"}
    assert sorted(ends) == [0, 1, 2]
    assert ends[0].total_bytes == 5
    assert ends[1].exit_code == 1


def test_a_line_of_256_mib_without_a_newline_passes_at_flat_memory(shared_service: Service) -> None:
    api = shared_service.api()
    size = 256 << 20
    batch = api.submit(f"head -c {size} /dev/zero | tr '\\0' x")
    server = shared_service.child("server")
    digest = hashlib.sha256()
    total = 0
    before = peak_memory(server)
    for chunk in api.follow(batch, timeout=240):
        digest.update(chunk.data)
        total += len(chunk.data)
    assert total == size
    whole = hashlib.sha256()
    for _ in range(256):
        whole.update(b"x" * (1 << 20))
    assert digest.digest() == whole.digest()
    assert peak_memory(server) - before < 48 << 20


def peak_memory(pid: int) -> int:
    """Bytes (proc(5), VmHWM)."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def test_a_flood_beside_jobs_that_print_a_byte_at_a_time_mixes_nothing_up(alice: Api) -> None:
    drip = "import os,time\nfor i in range(200):\n os.write(1, b'%c' % (97 + i % 26))\n time.sleep(0.001)"
    flood = f"head -c {64 << 20} /dev/zero"
    batch = alice.submit(flood, *[python(drip)] * 6, batch=job_pb2.BatchOptions(parallelism=8))
    alice.wait(batch)
    expected = bytes(97 + i % 26 for i in range(200))
    for index in range(1, 7):
        assert alice.log(batch, index) == expected
    assert first_job(alice, batch).logs[0].bytes == 64 << 20


def test_standard_input_reaches_the_job_whole(alice: Api) -> None:
    data = bytes(range(256)) * 4000
    batch = alice.submit(schedule_pb2.JobRequest(argv=["cat"], stdin=data), "cat; echo nothing")
    assert alice.log(batch, 0) == data
    assert alice.log(batch, 1) == b"nothing\n"


def test_the_last_lines_and_the_last_bytes_can_be_asked_for(alice: Api) -> None:
    batch = alice.submit("seq 1000")
    alice.wait(batch)
    lines = b"".join(c.data for c in alice.follow(batch, tail_lines=3))
    assert lines == b"998\n999\n1000\n"
    assert b"".join(c.data for c in alice.follow(batch, tail_bytes=7)) == b"99\n1000\n"[-7:]


def test_a_snapshot_of_a_running_log_ends_without_an_end(alice: Api) -> None:
    batch = alice.submit("echo here; exec sleep 600")
    until(lambda: first_job(alice, batch).logs[0].bytes == 5 if first_job(alice, batch).logs else False, "output")
    chunks = list(alice.follow(batch, no_follow=True))
    assert b"".join(c.data for c in chunks) == b"here\n"
    assert not [c for c in chunks if c.WhichOneof("payload") == "end"]
    alice.cancel(batch)


def test_jobs_that_have_not_started_are_followed_from_their_start(alice: Api) -> None:
    batch = alice.submit(*[f"echo job {i}" for i in range(30)], batch=job_pb2.BatchOptions(parallelism=1))
    logs = dict.fromkeys(range(30), b"")
    for chunk in alice.follow(batch):
        logs[chunk.job_index] += chunk.data
    assert logs == {i: b"job %d\n" % i for i in range(30)}


def test_a_search_tells_jobs_in_order_as_text_without_splitting_a_character(alice: Api) -> None:
    text = "grüße 🚀 " * 20_000
    code = "import os,sys\ndata = sys.stdin.buffer.read()\nfor i in range(0, len(data), 7): os.write(1, data[i:i+7])"
    batch = alice.submit(python(code, stdin=text.encode()), "printf 'bad \\377 byte'; exit 4")
    texts = {0: "", 1: ""}
    results = {}
    for answer in alice.query.SearchJob(query_pb2.SearchJobRequest(correlation_id=batch), **alice.call()):
        texts[answer.job.index] += answer.log_output
        results[answer.job.index] = answer.result
    assert texts[0] == text
    assert texts[1] == "bad \ufffd byte"
    assert results[1] == "FAILED (exit code 4)"


def test_a_log_limit_keeps_exactly_so_many_bytes_and_ends_the_job(alice: Api) -> None:
    limits = job_pb2.Limits(log_bytes=123_456)
    batch = alice.submit(schedule_pb2.JobRequest(command="yes", limits=limits))
    alice.wait(batch)
    job = alice.jobs(batch)[0]
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.end_reason == job_pb2.END_REASON_LOG_LIMIT
    assert alice.log(batch) == (b"y\n" * 61_728)


def test_a_cursor_beyond_the_end_is_refused_with_its_field(alice: Api) -> None:
    batch = alice.submit("echo hi")
    alice.wait(batch)
    with pytest.raises(grpc.RpcError) as refused:
        list(alice.follow(batch, cursors=[query_pb2.LogCursor(job_index=0, offset=4)]))
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert "cursors[0].offset" in refused.value.details()
    assert [c.WhichOneof("payload") for c in alice.follow(batch, cursors=[query_pb2.LogCursor(offset=3)])] == ["end"]


def test_names_of_programs_with_odd_characters_pass_as_they_are(alice: Api) -> None:
    words = ["ü", "a b", "$HOME", "'\"", "*", "", "\n"]
    batch = alice.submit(schedule_pb2.JobRequest(argv=["printf", "<%s>", *words]))
    assert alice.log(batch).decode() == "".join(f"<{w}>" for w in words)
    quoted = alice.submit("printf '<%s>' " + " ".join(shlex.quote(w) for w in words))
    assert alice.log(quoted).decode() == "".join(f"<{w}>" for w in words)


def test_a_follower_is_told_the_end_while_others_still_read(alice: Api) -> None:
    batch = alice.submit("echo quick", "sleep 0.5; echo slow", batch=job_pb2.BatchOptions(parallelism=2))
    order = [(c.job_index, c.WhichOneof("payload")) for c in alice.follow(batch)]
    assert order.index((0, "end")) < order.index((1, "data"))

"""Bad jobs: each the documented status with its details; nothing lost, nothing half-written, no stack trace."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.refusal import refused
from tests.harness.service import Api

KIB, MIB = 1 << 10, 1 << 20
# execve(2): MAX_ARG_STRLEN with its NUL, and what the service takes of the quarter of the stack.
ARGUMENT_BYTES = 128 * KIB - 1
COMMAND_BYTES = 2 * MIB - 16 * KIB


pytestmark = pytest.mark.usefixtures("unharmed")


def request(**fields: Any) -> schedule_pb2.JobRequest:
    """A request, good but for the fields given."""
    if not fields.keys() & {"command", "argv"}:
        fields["command"] = "true"
    return schedule_pb2.JobRequest(**fields)


def limits(**fields: Any) -> schedule_pb2.JobRequest:
    """A request with limits."""
    return request(limits=job_pb2.Limits(**fields))


def options(**fields: Any) -> schedule_pb2.JobRequest:
    """A request with options of its batch."""
    return request(batch=job_pb2.BatchOptions(**fields))


LONG = "x" * (ARGUMENT_BYTES + 1)
BAD_JOBS: dict[str, tuple[schedule_pb2.JobRequest, str]] = {
    "no command": (schedule_pb2.JobRequest(), "command"),
    "a blank command": (request(command=" \n\t"), "command"),
    "command and argv": (request(command="true", argv=["true"]), "argv"),
    "an empty program": (request(argv=["", "x"]), "argv[0]"),
    "NUL in the command": (request(command="echo a\0b"), "command"),
    "NUL in an argument": (request(argv=["echo", "a", "b\0"]), "argv[2]"),
    "NUL in a value": (request(env={"A": "b\0"}), "env['A']"),
    "NUL in a name": (request(env={"A\0": "b"}), "env['A\\x00']"),
    "NUL in the folder": (request(cwd="/tmp\0/x"), "cwd"),
    "NUL in the job's name": (request(name="a\0b"), "name"),
    "a variable without a name": (request(env={"": "b"}), "env['']"),
    "a variable with =": (request(env={"A=B": "c"}), "env['A=B']"),
    "the service's own variable": (request(env={"JOBWORKER_JOB_INDEX": "7"}), "env['JOBWORKER_JOB_INDEX']"),
    "any JOBWORKER_ variable": (request(env={"JOBWORKER_PATHS__PKI": "/"}), "env['JOBWORKER_PATHS__PKI']"),
    "a command beyond one argument": (request(command=LONG), "command"),
    "an argument beyond one argument": (request(argv=["true", LONG]), "argv[1]"),
    "multi-byte characters beyond it": (request(argv=["true", "ü" * (64 * KIB)]), "argv[1]"),
    "a value beyond one argument": (request(env={"A": LONG}), "env['A']"),
    "too much of all": (request(argv=["true"] + ["x" * 100_000] * 21), "argv"),
    "too much environment": (request(env={f"A{n}": "x" * 100_000 for n in range(21)}), "command"),
    "too many small arguments": (request(argv=["true"] + [""] * 240_000), "argv"),
    "a relative folder": (request(cwd="some/where"), "cwd"),
    "a folder of dots": (request(cwd=".."), "cwd"),
    "a folder that is too long": (request(cwd="/" * 5000), "cwd"),
    "a negative timeout": (request(timeout=Duration(seconds=-1)), "timeout"),
    "a slightly negative timeout": (request(timeout=Duration(nanos=-1)), "timeout"),
    "no time at all": (request(timeout=Duration()), "timeout"),
    "a timeout of ages": (request(timeout=Duration(seconds=10**11)), "timeout"),
    "no duration": (request(timeout=Duration(seconds=10**18)), "timeout"),
    "nanos beyond a second": (request(timeout=Duration(seconds=1, nanos=2**31 - 1)), "timeout"),
    "limits.memory": (limits(memory_bytes=2**64 - 1), "limits.memory_bytes"),
    "limits.cpu": (limits(cpu_time=Duration(seconds=-3)), "limits.cpu_time"),
    "limits.file size": (limits(file_size_bytes=2**63), "limits.file_size_bytes"),
    "limits.log": (limits(log_bytes=2**63), "limits.log_bytes"),
    "an output mode of the future": (request(output=99), "output"),  # type: ignore[arg-type]
    "a log policy of the future": (request(log_policy=99), "log_policy"),  # type: ignore[arg-type]
    "a name that is too long": (request(name="n" * 256), "name"),
    "a name of several lines": (request(name="one\ntwo"), "name"),
    "a batch's name that is too long": (options(name="n" * 256), "batch.name"),
    "too much parallelism": (options(parallelism=100_001), "batch.parallelism"),
    "too many labels": (options(labels={f"k{n}": "v" for n in range(65)}), "batch.labels"),
    "a label without a key": (options(labels={"": "v"}), "batch.labels['']"),
    "a key that is too long": (options(labels={"k" * 64: "v"}), f"batch.labels['{'k' * 64}']"),
    "a label that is too long": (options(labels={"k": "v" * 256}), "batch.labels['k']"),
}
FIRST_ONLY = {name for name, (_, field) in BAD_JOBS.items() if field.startswith("batch.")}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_job_that_cannot_be_right_is_refused_with_its_field(alice: Api, name: str) -> None:
    bad, field = BAD_JOBS[name]
    found = refused(lambda: alice.schedule.ExecuteJob(bad, **alice.call()))
    assert (found.name, found.fields) == ("INVALID_ARGUMENT", [field])


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_batch_is_refused_whole_for_one_of_its_jobs(alice: Api, name: str, scratch: Path) -> None:
    bad, field = BAD_JOBS[name]
    before = 0 if name in FIRST_ONLY else 17
    good = request(command=f"touch {scratch}/ran")
    found = refused(lambda: alice.submit(*[good] * before, bad, *[good] * 3))
    assert (found.name, found.fields) == ("INVALID_ARGUMENT", [f"jobs[{before}].{field}"])
    assert not (scratch / "ran").exists()


def test_everything_that_is_wrong_is_told_at_once(alice: Api) -> None:
    bad = request(argv=["a\0"], cwd="x", env={"A=": ""}, timeout=Duration(), name="n" * 300)
    found = refused(lambda: alice.submit("true", bad))
    assert found.fields == [f"jobs[1].{f}" for f in ("argv[0]", "env['A=']", "cwd", "timeout", "name")]


def test_what_was_refused_is_not_listed_among_thousands_of_faults(alice: Api) -> None:
    bad = request(env={f"JOBWORKER_{n}": "x" for n in range(5000)})
    found = refused(lambda: alice.submit(bad))
    assert found.name == "INVALID_ARGUMENT"
    assert 1 <= len(found.fields) <= 100


def test_a_batch_without_jobs_is_refused(alice: Api) -> None:
    found = refused(alice.submit)
    assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["jobs"])


def test_options_belong_on_the_first_message(alice: Api) -> None:
    found = refused(lambda: alice.submit("true", options(name="late")))
    assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["jobs[1].batch"])


# At the limits


@pytest.mark.parametrize("largest", [
    request(argv=["/bin/true", "x" * ARGUMENT_BYTES]),
    request(command="true " + "x" * (ARGUMENT_BYTES - 5)),
    request(env={"A": "x" * (ARGUMENT_BYTES - 2)}),
    request(argv=["true"] + ["x" * 100_000] * 20 + ["x" * (COMMAND_BYTES - 20 * 100_009 - 13 - 9 - 9)]),
    request(argv=["true"] + ["x" * 20] * 65_535),
    request(env={f"A{n:02}": "x" * 100_000 for n in range(20)}, command="x" * 79_000 + "; true"),
    request(name="n" * 255),
    options(parallelism=100_000, labels={f"k{n}": "v" * 255 for n in range(64)}, name="ü" * 255),
    request(timeout=Duration(nanos=999_999_999)),
    limits(memory_bytes=2**62, open_files=2**32 - 1, processes=2**32 - 1, file_size_bytes=2**62, log_bytes=2**62),
], ids=range(10))  # fmt: skip
def test_what_is_just_within_the_limits_runs(alice: Api, largest: schedule_pb2.JobRequest) -> None:
    batch = alice.submit(largest)
    alice.wait(batch)
    job = alice.jobs(batch)[0]
    assert (job.end_reason, job.exit_code) == (job_pb2.END_REASON_EXITED, 0), job.end_detail


def test_the_standard_input_may_fill_the_message(alice: Api) -> None:
    data = secrets.token_bytes(4 * MIB - 64)
    batch = alice.submit(request(command="cat", stdin=data))
    alice.wait(batch)
    assert alice.log(batch) == data


def test_a_message_over_the_limit_is_refused(alice: Api) -> None:
    large = request(stdin=bytes(4 * MIB + 1))
    assert refused(lambda: alice.schedule.ExecuteJob(large, **alice.call())).name == "RESOURCE_EXHAUSTED"
    assert refused(lambda: alice.submit("true", "true", large, "true")).name == "RESOURCE_EXHAUSTED"


# Jobs that cannot be started


def test_a_job_that_cannot_be_started_fails_with_its_reason_and_the_others_run(alice: Api, scratch: Path) -> None:
    text = scratch / "text"
    text.write_text("no program\n")
    garbage = scratch / "garbage"
    garbage.write_bytes(b"\x7fELFnot really")
    lost = scratch / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    garbage.chmod(0o755)
    lost.chmod(0o755)
    bad = {
        "working directory does not exist": request(cwd="/no/such/folder"),
        "working directory is not a directory": request(cwd=str(text)),
        "program not found: no-such-program": request(argv=["no-such-program"]),
        "program not found: /no/such/program": request(argv=["/no/such/program"]),
        f"program not found: {text}/x": request(argv=[f"{text}/x"]),
        f"program may not be executed: {text}": request(argv=[str(text)]),
        "program may not be executed: /tmp": request(argv=["/tmp"]),
        f"program is in no executable format: {garbage}": request(argv=[str(garbage)]),
        f"interpreter of the program was not found: {lost}": request(argv=[str(lost)]),
        "program not found: true": request(argv=["true"], env={"PATH": ""}),
        "program not found: \u00fc\u20ac": request(argv=["\u00fc\u20ac"]),
    }
    separate = request(argv=["/no"], output=job_pb2.OUTPUT_MODE_SEPARATE, limits=job_pb2.Limits(open_files=100))
    batch = alice.submit("echo first", *bad.values(), separate, "echo last")
    final = alice.wait(batch)
    assert (final.counts.succeeded, final.counts.failed) == (2, len(bad) + 1)
    first, *failed, last = alice.jobs(batch)
    assert alice.log(batch, first.index) == b"first\n"
    assert alice.log(batch, last.index) == b"last\n"
    for job, why in zip(failed, [*bad, "program not found: /no"], strict=True):
        assert job.end_reason == job_pb2.END_REASON_SPAWN_FAILED
        assert why in job.end_detail
        assert job.WhichOneof("outcome") is None
        assert job.exit_source == job_pb2.EXIT_SOURCE_UNSPECIFIED
        assert not job.HasField("started_at")
        assert not job.HasField("usage")
        assert all(log.bytes == 0 for log in job.logs)
    assert alice.log(batch, 1) == b""

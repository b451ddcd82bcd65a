"""Whatever a batch says: it is refused with its fields, or runs to its end."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.refusal import refusal
from tests.harness.service import Api

pytestmark = pytest.mark.usefixtures("unharmed")

texts = st.text(st.characters(codec="utf-8"), max_size=30)
durations = st.builds(Duration, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1))
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
requests = st.builds(
    schedule_pb2.JobRequest,
    command=st.sampled_from(["", "true", "exit 3", "echo hi >&2", "cat"]) | texts.map("exec echo {}".format),
    argv=st.sampled_from([[], [], [], ["true"], ["/tmp"], ["echo", "x"]]) | st.lists(texts, max_size=4),
    env=st.dictionaries(texts, texts, max_size=3),
    cwd=st.sampled_from(["", "/", "/tmp", "/no", "x"]) | texts,
    stdin=st.binary(max_size=100),
    timeout=st.none() | durations | st.builds(Duration, seconds=st.integers(1, 100)),
    limits=st.none()
    | st.builds(
        job_pb2.Limits,
        memory_bytes=u64,
        cpu_time=st.none() | durations,
        open_files=u32,
        processes=u32,
        file_size_bytes=u64,
        log_bytes=u64,
    ),
    output=st.integers(0, 3),
    log_policy=st.integers(0, 4),
    name=texts,
    batch=st.none()
    | st.builds(
        job_pb2.BatchOptions,
        name=texts,
        parallelism=u32,
        fail_fast=st.booleans(),
        labels=st.dictionaries(texts, texts, max_size=2),
    ),
)


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(jobs=st.lists(requests, min_size=1, max_size=3))
def test_any_batch_is_refused_with_its_fields_or_runs_to_its_end(
    alice: Api, jobs: list[schedule_pb2.JobRequest]
) -> None:
    try:
        batch = alice.submit(*jobs)
    except grpc.RpcError as error:
        found = refusal(error)
        assert found.name == "INVALID_ARGUMENT"
        assert all(field.startswith("jobs[") for field in found.fields)
        return
    with contextlib.suppress(grpc.RpcError):
        alice.cancel(batch, len(jobs))  # one that is not there
    alice.wait(batch)
    for index, job in enumerate(alice.jobs(batch)):
        assert (job.index, job.state > job_pb2.JOB_STATE_RUNNING) == (index, True)
        assert job.end_reason != job_pb2.END_REASON_UNSPECIFIED

"""The model and the messages say the same."""

from enum import IntEnum

import pytest

from jobworker.server.model import BatchState, EndReason, JobState, LogStream, OutputMode
from jobworker.v1 import job_pb2


@pytest.mark.parametrize(
    ("kind", "message", "prefix"),
    [
        (JobState, job_pb2.JobState, "JOB_STATE_"),
        (EndReason, job_pb2.EndReason, "END_REASON_"),
        (LogStream, job_pb2.LogStream, "LOG_STREAM_"),
        (OutputMode, job_pb2.OutputMode, "OUTPUT_MODE_"),
        (BatchState, job_pb2.BatchState, "BATCH_STATE_"),
    ],
)
def test_the_enums_of_model_and_messages_have_the_same_names_and_numbers(
    kind: type[IntEnum], message: object, prefix: str
) -> None:
    published = {name.removeprefix(prefix): number for name, number in message.items() if number}  # type: ignore[attr-defined]
    assert {member.name: member.value for member in kind} == published


def test_every_job_state_is_counted() -> None:
    assert {field.name for field in job_pb2.JobCounts.DESCRIPTOR.fields} == {s.name.lower() for s in JobState}

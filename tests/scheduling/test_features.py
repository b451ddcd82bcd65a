"""An executor of the release before, which lacks a feature."""

from __future__ import annotations

import zipfile

from jobworker.executor import bundle
from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.listening import Listening

LIMIT = 1000


def test_without_log_policies_a_job_that_prints_too_much_ends_and_says_why(listening: Listening) -> None:
    program = listening.folder / bundle.NAME
    with zipfile.ZipFile(program) as file:
        content = {name: file.read(name) for name in file.namelist()}
    source = content["executor/protocol.py"]
    content["executor/protocol.py"] = source.replace(b', "log_policy"]', b"]")
    assert content["executor/protocol.py"] != source
    with zipfile.ZipFile(program, "w") as file:
        for name, text in content.items():
            file.writestr(name, text)
    listening.start()
    api = listening.api()

    def job(policy: job_pb2.LogPolicy) -> schedule_pb2.JobRequest:
        return schedule_pb2.JobRequest(command="exec yes", limits=job_pb2.Limits(log_bytes=LIMIT), log_policy=policy)

    batch = api.submit(job(job_pb2.LOG_POLICY_TRUNCATE_TAIL), job(job_pb2.LOG_POLICY_TRUNCATE_HEAD), "echo fine")
    assert api.wait(batch).counts.failed == 2
    for ended in api.jobs(batch)[:2]:
        assert (ended.end_reason, ended.logs[0].bytes) == (job_pb2.END_REASON_LOG_LIMIT, LIMIT)
        assert ended.end_detail.endswith("; an executor of the release before knows no log policy but `end`")
    assert listening.said().count("of log policies it knows `end` alone") == 1

"""Upgrade, deletion and removal of a release on a real node: what is kept, and what jobs are told."""

from __future__ import annotations

import pytest

from jobworker.v1 import job_pb2
from tests.harness.cluster import Release, ends, log, printed, submit
from tests.harness.wait import until

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.go, pytest.mark.engine]

DRAIN = {"drain": {"seconds": 6}}
TOLD = "trap 'echo told; exit 9' TERM; echo begun; while :; do sleep 0.1; done"


def test_a_change_of_the_configuration_reaches_the_running_server(own: Release) -> None:
    own.install({"config": {"jobs": {"running": 7}}})
    uid, restarts = own.uid(), own.restarts()
    with own.client("admin") as client:
        assert client.admin.config().values["jobs"]["running"] == 7
        own.upgrade({"config": {"jobs": {"running": 3}}})
        until(lambda: client.admin.config().values["jobs"]["running"] == 3, "the changed key", 180)
    assert own.uid() == uid
    assert own.restarts() == restarts
    # A key that takes a restart makes a new pod, which then has it.
    own.upgrade({"config": {"jobs": {"running": 3}, "rest": {"connections": 55}}})
    assert own.uid() != uid
    with own.client("admin") as client:
        assert client.admin.config().values["rest"]["connections"] == 55


def test_an_upgrade_of_the_pod_drains_and_keeps_authority_data_and_queue(own: Release) -> None:
    own.install({"drain": {"seconds": 60}})
    uid = own.uid()
    with own.client() as client:
        old = submit(client, ["echo old"])
        ends(client, old)
        batch = submit(client, ["echo begun; sleep 4; echo ended", "echo queued"], parallelism=1)
        printed(client, batch, "begun\n")
        own.upgrade({"drain": {"seconds": 60}, "podAnnotations": {"changed": "yes"}})
        assert own.uid() != uid
        jobs = ends(client, batch)
        assert {(j.state, j.exit_source) for j in jobs} == {(job_pb2.JOB_STATE_SUCCEEDED, job_pb2.EXIT_SOURCE_WAITED)}
        assert log(client, batch) == "begun\nended\n"
        assert log(client, batch, 1) == "queued\n"
        assert log(client, old) == "old\n"  # with the certificate of before


def test_a_job_that_outlasts_the_drain_is_interrupted_and_told_so(own: Release) -> None:
    own.install(DRAIN)
    uid = own.uid()
    with own.client() as client:
        batch = submit(client, [TOLD, "echo queued"], parallelism=1)
        printed(client, batch, "begun\n")
        own.cluster.kubectl("-n", own.namespace, "delete", "pod", own.pod, "--wait=false")
        own.gone(uid)
        cut, queued = ends(client, batch)
        assert (cut.state, cut.end_reason) == (job_pb2.JOB_STATE_FAILED, job_pb2.END_REASON_INTERRUPTED)
        assert (cut.exit_code, cut.exit_source) == (9, job_pb2.EXIT_SOURCE_WAITED)
        said = log(client, batch).splitlines()
        assert (said[0], said[-1]) == ("begun", "told")
        assert queued.state == job_pb2.JOB_STATE_SUCCEEDED


def test_jobs_of_a_pod_that_is_deleted_without_grace_are_told_to_be_cut(own: Release) -> None:
    own.install(DRAIN)
    uid = own.uid()
    with own.client() as client:
        batch = submit(client, [TOLD, "echo queued"], parallelism=1)
        printed(client, batch, "begun\n")
        own.cluster.kubectl("-n", own.namespace, "delete", "pod", own.pod, "--force", "--grace-period=0")
        own.gone(uid)
        cut, queued = ends(client, batch)
        # The kubelet leaves them two seconds even so: whether the end was still seen is a race.
        assert cut.end_reason in (job_pb2.END_REASON_INTERRUPTED, job_pb2.END_REASON_EXECUTOR_LOST)
        assert queued.state == job_pb2.JOB_STATE_SUCCEEDED


def test_uninstall_keeps_the_claims_and_a_second_install_goes_on_with_them(own: Release) -> None:
    own.install(DRAIN)
    with own.client() as client:
        batch = submit(client, ["echo kept"])
        ends(client, batch)
        own.uninstall()
        claims = own.cluster.kubectl("-n", own.namespace, "get", "pvc", "-o", "jsonpath={.items[*].metadata.name}")
        assert claims.split() == [f"{name}-{own.pod}" for name in ("data", "logs", "pki")]
        left = own.cluster.kubectl(
            "-n", own.namespace, "get", "all,configmap,serviceaccount,networkpolicy", "-o", "name"
        )
        assert {line for line in left.split() if own.name in line} == set()
    own.install(DRAIN)
    with own.client() as client:  # the bundle of before
        assert log(client, batch) == "kept\n"

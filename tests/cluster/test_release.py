"""The chart on a real node: what it does while it runs, and the crash table of a pod's containers."""

from __future__ import annotations

import json

import pytest

from jobworker.v1 import job_pb2
from tests.harness import charttools
from tests.harness.cluster import CHART, Cluster, Release, ends, log, printed, submit
from tests.harness.wait import until

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.go, pytest.mark.engine]

COUNT = 'for i in $(seq 40); do echo "line $i"; sleep 0.1; done; exit 7'
COUNTED = "".join(f"line {i}\n" for i in range(1, 41))
UNTIL_TOLD = "echo begun; while ! test -e /tmp/{0}; do sleep 0.1; done; echo {0}"


def test_a_batch_from_outside_runs_with_the_bundle_that_the_notes_tell_how_to_get(installed: Release) -> None:
    with installed.client(forwarded=True) as client:
        batch = submit(client, ["echo one; echo two >&2", "id -u; pwd", "exit 3"])
        first, second, third = ends(client, batch)
        assert (first.state, second.state) == (job_pb2.JOB_STATE_SUCCEEDED,) * 2
        assert (third.state, third.exit_code) == (job_pb2.JOB_STATE_FAILED, 3)
        assert log(client, batch) == "one\ntwo\n"
        assert log(client, batch, 1) == f"10002\n/home/jobs/batches/{batch}\n"


BIND = """exec python3 -c '
import socket, sys
listener, port = socket.socket(), {}
try:
    if port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.9", port))
except PermissionError:
    sys.exit(9)
'"""


def test_a_job_cannot_take_the_servers_ports(installed: Release) -> None:
    with installed.client() as client:
        batch = submit(client, [BIND.format(port) for port in (50051, 8443, 9464, 0)])
        assert [job.exit_code for job in ends(client, batch)] == [9, 9, 9, 0]


def test_a_job_cannot_starve_the_executor(installed: Release) -> None:
    calls = [
        "resource.prlimit(pid, resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))",
        "os.sched_setaffinity(pid, os.sched_getaffinity(0))",
        "os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0))",
    ]
    threads = "map(int, os.listdir('/proc/1/task'))"
    tries = [
        f"import os, resource, sys\nfor pid in {pids}:\n try: {call}\n except PermissionError: sys.exit(9)"
        for call in calls
        for pids in ("[0]", threads)
    ]
    with installed.client() as client:
        batch = submit(client, [f'exec python3 -c "{attempt}"' for attempt in tries])
        assert [job.exit_code for job in ends(client, batch)] == [0, 9] * len(calls)


def test_helm_test_passes(installed: Release) -> None:
    said = installed.cluster.helm("test", installed.name, "-n", installed.namespace, "--logs", "--timeout", "5m")
    assert "Succeeded" in said
    assert "a batch ran, its output and its exit code came back" in said


def test_a_server_container_that_dies_alone_loses_nothing(installed: Release) -> None:
    before, uid = installed.restarts(), installed.uid()
    with installed.client() as client:
        batch = submit(client, [COUNT, COUNT, "echo queued"], parallelism=2)
        printed(client, batch, "line 3\n")
        installed.cluster.kill(installed.namespace, installed.pod, "server")
        jobs = ends(client, batch)
        assert [(j.state, j.exit_code) for j in jobs[:2]] == [(job_pb2.JOB_STATE_FAILED, 7)] * 2
        assert {j.exit_source for j in jobs} == {job_pb2.EXIT_SOURCE_WAITED}
        assert [log(client, batch, i) for i in range(3)] == [COUNTED, COUNTED, "queued\n"]
    installed.restarted(before, "server")
    assert installed.uid() == uid


def test_jobs_of_an_executor_container_that_dies_are_lost_and_queued_ones_run(installed: Release) -> None:
    before = installed.restarts()
    with installed.client() as client:
        batch = submit(client, ["echo begun; sleep 3600", "echo queued"], parallelism=1)
        printed(client, batch, "begun\n")
        installed.cluster.kill(installed.namespace, installed.pod, "executor")
        lost, queued = ends(client, batch)
        assert (lost.state, lost.end_reason) == (job_pb2.JOB_STATE_LOST, job_pb2.END_REASON_EXECUTOR_LOST)
        assert lost.WhichOneof("outcome") is None
        assert queued.state == job_pb2.JOB_STATE_SUCCEEDED
        assert log(client, batch) == "begun\n"
    installed.restarted(before, "executor")


def test_when_all_containers_die_at_once_running_jobs_are_lost_and_the_rest_is_kept(installed: Release) -> None:
    before = installed.restarts()
    with installed.client() as client:
        finished = submit(client, ["echo finished"])
        ends(client, finished)
        batch = submit(client, ["echo begun; sleep 3600", "echo queued"], parallelism=1)
        printed(client, batch, "begun\n")
        installed.cluster.kill(installed.namespace, installed.pod, "server", "executor")
        lost, queued = ends(client, batch)
        assert lost.state == job_pb2.JOB_STATE_LOST
        assert queued.state == job_pb2.JOB_STATE_SUCCEEDED
        assert log(client, batch, 1) == "queued\n"
        assert log(client, finished) == "finished\n"
    installed.restarted(before, "server", "executor")


def test_a_job_reaches_neither_keys_nor_data_nor_the_servers_processes(installed: Release) -> None:
    looks = [
        "ls /etc/jobworker /var/lib/jobworker /var/log/jobworker",
        "touch /run/jobworker/executor/mine",
        "touch /usr/local/lib/jobworker/mine",
        "touch /usr/bin/mine",
        "cat /run/jobworker/executor/executor.sock.key",
        "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
        "cat /proc/1/environ /proc/1/mem",
        "grep -la '/opt/jobworker/bi[n]' /proc/[0-9]*/cmdline",
    ]
    with installed.client() as client:
        batch = submit(client, looks)
        assert {look: job.state for look, job in zip(looks, ends(client, batch), strict=True)} == dict.fromkeys(
            looks, job_pb2.JOB_STATE_FAILED
        )


def test_a_greedy_job_ends_alone(installed: Release) -> None:
    greedy = "exec python3 -c 'x = []\nwhile True: x.append(bytearray(4 << 20))'"
    before = installed.restarts()
    with installed.client() as client:
        batch = submit(client, [UNTIL_TOLD.format("told"), greedy], parallelism=2)
        ended = until(
            lambda: [j for j in client.jobs(batch, job_index=[1]) if j.state == job_pb2.JOB_STATE_FAILED],
            "the end of the greedy job",
        )
        assert ended[0].end_reason == job_pb2.END_REASON_MEMORY
        assert "of all jobs this one held most" in ended[0].end_detail
        ends(client, submit(client, ["touch /tmp/told"]))
        other, _ = ends(client, batch)
        assert other.state == job_pb2.JOB_STATE_SUCCEEDED
    assert installed.restarts() == before


def test_the_api_server_takes_what_the_chart_makes_of_each_set_of_values(cluster: Cluster) -> None:
    known = {"ServiceMonitor", "PrometheusRule", "Certificate"}  # of others: no node knows them by itself
    security = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    for name in ("dry", "monitoring"):
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": security}}
        cluster.kubectl("apply", "-f", "-", given=json.dumps(space))
    account = ("-n", "dry", "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
    until(lambda: cluster.kubectl(*account), "the namespace's account")
    for values in sorted((CHART / "ci").glob("*.yaml")):
        made = cluster.helm("template", "dry", str(CHART), "-n", "dry", "-f", str(values), "--kube-version", "1.34.4")
        documents = [d for d in charttools.documents(made) if d["kind"] not in known]
        for document in documents:
            document["metadata"].setdefault("namespace", "dry")
            if document["kind"] == "Pod":
                document["spec"]["serviceAccountName"] = "default"  # its own is not there: nothing is made
        # A pod that is not restricted is refused, and a StatefulSet that would make one is warned of.
        listed = {"apiVersion": "v1", "kind": "List", "items": documents}
        cluster.kubectl("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-", given=json.dumps(listed))

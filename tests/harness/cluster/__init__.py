"""A real one-node Kubernetes (see `node`) with the service in it; a release of the chart, and a client of that."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobworker.client import BatchOptions, JobRequest, PasswordLogin
from jobworker.client.sync import Client
from jobworker.v1 import job_pb2
from tests.harness import charttools
from tests.harness.service import free_port
from tests.harness.wait import until

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts/jobworker"
NODE = Path(__file__).with_name("node")
VERSION = "cluster"
IMAGES = {"server": f"jobworker:{VERSION}", "executor": f"jobworker-executor:{VERSION}"}
# A pod whose event came too early for the scheduler is looked at again after five minutes.
POD_SECONDS = 480.0


class Cluster:
    """What `running` gives."""

    def __init__(self, programs: Path, kubeconfig: Path) -> None:
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        }
        self._helm = str(charttools.helm())

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Its output; a failure fails the test with what it said."""
        return self.run("kubectl", *arguments, given=given)

    def helm(self, *arguments: str) -> str:
        """Its output."""
        return self.run(self._helm, *arguments)

    def run(self, *command: str, given: str | None = None, cwd: Path | None = None) -> str:
        """Any command, with the cluster's kubectl."""
        done = self._run(command, given, cwd)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def told(self, *command: str) -> str:
        """All that a command says, whether it fails or not."""
        done = self._run(command)
        return f"$ {' '.join(command)}\n{done.stderr}{done.stdout}"

    def _run(
        self, command: Sequence[str], given: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, check=False, env=self._environment, capture_output=True, text=True, input=given, cwd=cwd
        )

    def popen(self, *command: str) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=self._environment, stdin=quiet, stdout=quiet, stderr=quiet)

    def get(self, namespace: str, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self.kubectl("-n", namespace, "get", kind, name, "-o", "json"))
        return found

    def kill(self, namespace: str, pod: str, *containers: str) -> None:
        """SIGKILL to the first process of containers, from outside."""
        for container in containers:
            self.run(str(NODE), "kill", namespace, pod, container)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A node with the images in it, built from this checkout. Whatever happens, it is ended."""
    programs = Path(_output([str(NODE), "build"]))
    engine = {**os.environ, "DOCKER_HOST": _output([str(ROOT / "docker/engine"), "up"]), "DOCKER_BUILDKIT": "1"}
    secret = ["--secret", f"id=pip,src={os.environ['PIP_CONF']}"] if "PIP_CONF" in os.environ else []
    for target, image in IMAGES.items():
        version = ["--build-arg", f"VERSION={VERSION}"] if target == "server" else []
        command = ["docker", "build", "--quiet", *secret, *version, "--target", target, "--tag", image, str(ROOT)]
        _output(command, engine)
    try:
        cluster = Cluster(programs, Path(_output([str(NODE), "up"])))
        _output([str(NODE), "load", *IMAGES.values()], engine)
        yield cluster
    finally:
        _output([str(NODE), "down"])


class Release:
    """The chart, installed in a namespace of its own that admits restricted pods alone."""

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = f"{name}-ns"
        self.pod = f"{name}-jobworker-0"
        self.port = free_port()
        self._folder = folder
        self._forward: subprocess.Popen[bytes] | None = None

    def install(self, values: Mapping[str, Any]) -> None:
        """Into a new namespace, or one that was used before; waits until it is ready."""
        space = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
        self.cluster.kubectl("apply", "-f", "-", given=json.dumps(space))
        self._deploy("install", values)

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """To other values; waits until it is done."""
        self._deploy("upgrade", values)

    def _deploy(self, verb: str, values: Mapping[str, Any]) -> None:
        images = {"image": {"tag": VERSION, "pullPolicy": "Never"}}
        own = {**images, "executor": {"image": {**images["image"]}}}
        for key, value in values.items():
            own[key] = {**own.get(key, {}), **value} if isinstance(value, dict) else value
        file = self._folder / f"{self.name}-values.json"
        file.write_text(json.dumps(own))
        try:
            self.cluster.helm(
                verb, self.name, str(CHART), f"--namespace={self.namespace}", f"--values={file}",
                "--wait", f"--timeout={POD_SECONDS}s",
            )  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._why()}") from error

    def _why(self) -> str:
        """What the cluster tells of a release that does not become ready."""
        own = ("-n", self.namespace)
        asked = (
            ("kubectl", *own, "describe", "pods,pvc"),
            ("kubectl", *own, "get", "events", "--sort-by=.lastTimestamp"),
            ("kubectl", *own, "logs", self.pod, "--all-containers", "--prefix", "--tail=30"),
            (str(NODE), "logs"),
        )
        return "\n".join(self.cluster.told(*command) for command in asked)

    def uninstall(self) -> None:
        """And waits until the pod is gone."""
        self.cluster.helm("uninstall", self.name, "-n", self.namespace, "--wait", f"--timeout={POD_SECONDS}s")
        self.gone(None)

    def gone(self, uid: str | None) -> None:
        """Waits until there is no pod, or another one than that."""
        until(lambda: self.uid() != uid if uid else not self.uid(), f"the end of pod {self.pod}", POD_SECONDS)

    def uid(self) -> str:
        """Of the pod; empty: there is none."""
        return self.cluster.kubectl(
            "-n", self.namespace, "get", "pod", self.pod, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}"
        )

    def ready(self) -> None:
        """Waits for the pod, which may be about to be made."""

        def is_ready() -> bool:
            kind = '{.status.conditions[?(@.type=="Ready")].status}'
            said = self.cluster.kubectl(
                "-n", self.namespace, "get", "pod", self.pod, "--ignore-not-found", "-o", f"jsonpath={kind}"
            )
            return said == "True"

        until(is_ready, f"pod {self.pod} ready", POD_SECONDS)

    def restarts(self) -> dict[str, int]:
        """How often each container of the pod was started again."""
        status = self.cluster.get(self.namespace, "pod", self.pod)["status"]
        both = status["containerStatuses"] + status["initContainerStatuses"]
        return {c["name"]: c["restartCount"] for c in both}

    def restarted(self, before: Mapping[str, int], *containers: str) -> None:
        """Waits until these were started again, since `before`, and the pod is ready. Others must not have been."""
        wanted = {name: count + (name in containers) for name, count in before.items()}
        until(lambda: self.restarts() == wanted, f"the restart of {containers} alone", POD_SECONDS)
        self.ready()

    def notes(self) -> list[str]:
        """The commands that the notes tell."""
        lines = self.cluster.helm("get", "notes", self.name, "-n", self.namespace).splitlines()
        return [line.strip() for line in lines if line.startswith("  ")]

    def bundle(self, user: str) -> Path:
        """A user and its bundle, made and fetched as the notes tell for `alice`."""
        folder = self._folder / self.name
        folder.mkdir(exist_ok=True)
        if not (folder / user).exists():
            exec_lines = [line for line in self.notes() if " exec " in line]
            assert len(exec_lines) == 2
            for line in exec_lines[user == "admin" :]:  # admin is there already
                self.cluster.run("bash", "-euo", "pipefail", "-c", line.replace("alice", user), cwd=folder)
        return folder / user

    def forward(self) -> None:
        """A port-forward from outside, as the notes tell."""
        service = f"service/{self.name}-jobworker"
        self._forward = self.cluster.popen(
            "kubectl", "-n", self.namespace, "port-forward", service, f"{self.port}:50051"
        )
        until(self._forwards, "the port-forward")

    def _forwards(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self) -> None:
        """Ends the port-forward."""
        if self._forward is not None:
            self._forward.kill()
            self._forward.wait()

    @contextlib.contextmanager
    def client(self, user: str = "alice", *, forwarded: bool = False) -> Iterator[Client]:
        """The SDK's, with a user's bundle; by the Service's address, which this machine reaches, or a port-forward,
        which breaks whenever the pod does."""
        self.ready()
        bundle = self.bundle(user)
        login = PasswordLogin(user, (bundle / "password").read_text().strip())
        service = self.cluster.get(self.namespace, "service", f"{self.name}-jobworker")["spec"]
        address = f"{service['clusterIP']}:{service['ports'][0]['port']}"
        if forwarded:
            self.forward()
            address = f"localhost:{self.port}"
        with Client(
            address=address, bundle=bundle, token=login, patience_seconds=POD_SECONDS, server_name="localhost"
        ) as client:
            yield client


def submit(client: Client, commands: Sequence[str], parallelism: int = 4) -> str:
    """A batch; its CorrelationID."""
    options = BatchOptions(parallelism=parallelism)
    return client.submit([JobRequest(command=c) for c in commands], options=options).correlation_id


def ends(client: Client, correlation_id: str) -> list[job_pb2.Job]:
    """Each job, once all are final."""
    client.wait(correlation_id, timeout_seconds=POD_SECONDS)
    return list(client.jobs(correlation_id))


def log(client: Client, correlation_id: str, index: int = 0, *, snapshot: bool = False) -> str:
    """What a job printed."""
    return b"".join(c.data for c in client.follow(correlation_id, job_index=[index], snapshot=snapshot)).decode()


def printed(client: Client, correlation_id: str, text: str, index: int = 0) -> None:
    """Waits until a job has printed it."""
    until(lambda: text in log(client, correlation_id, index, snapshot=True), f"{text!r} in the log")


def _output(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    sys.stderr.write(done.stderr)  # what it had to try again, say
    return done.stdout.strip()

"""A real container engine, the images of this tree, and compose projects of them, driven by docker's own commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness.service import Api, free_port
from tests.harness.wait import until

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 600.0
SERVER_IMAGE, EXECUTOR_IMAGE = "jobworker", "jobworker-executor"
# A health check that looks more often than an operator's, so that a test need not wait for it.
OVERRIDE = (
    "services:\n  server:\n    healthcheck: { interval: 3s, retries: 1, start_period: 0s }\n"
    "  renewal:\n    healthcheck: { interval: 3s }\n"
)


def engine() -> str:
    """The DOCKER_HOST of an engine that answers: this machine's, or one that docker/engine starts."""
    with contextlib.suppress(OSError):
        if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0 and _has_compose():
            return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    done = subprocess.run([ROOT / "docker" / "engine", "up"], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def _has_compose() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def docker(*arguments: str, check: bool = True, timeout: float = COMMAND_SECONDS, **run: Any) -> str:
    """Runs docker; its output. What it said is in the error when it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False, **run)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def build(tag: str, context: Path = ROOT) -> None:
    """Builds both images."""
    base = os.environ.get("BASE_IMAGE", "python:3.13-slim-trixie")
    for target, image in (("executor", EXECUTOR_IMAGE), ("server", SERVER_IMAGE)):
        options = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"VERSION={tag}"]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        docker("build", *options, "--target", target, "--tag", f"{image}:{tag}", str(context), env=environment)


def context_of_version(folder: Path, version: str) -> Path:
    """A copy of what the images are made of, which says that it is of another version."""
    for name in ("Dockerfile", ".dockerignore", "build_protos.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "docker").mkdir()
    for lock in (ROOT / "docker").glob("*.lock"):
        shutil.copy(lock, folder / "docker")
    for package in ("service", "pki"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*_pb2*"))
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    said = [f'version = "{version}"' if line.startswith("version = ") else line for line in lines]
    (folder / "pyproject.toml").write_text("\n".join(said) + "\n")
    return folder


def image_id(name: str) -> str:
    """What the tag points to."""
    return docker("image", "inspect", "--format", "{{.Id}}", name).strip()


class Stack:
    """A compose project with the service's own parts, on free ports."""

    def __init__(self, folder: Path, tag: str, *, override: str = OVERRIDE, **variables: str) -> None:
        self.name = f"jobworker-{os.getpid()}-{folder.name}".lower()
        self.folder = folder
        self.port = free_port()
        self.rest_port = free_port()
        self.metrics_port = free_port()
        self.tag = tag
        self._variables = variables
        self._apis: list[Api] = []
        (folder / "override.yaml").write_text(override)

    def compose(self, *arguments: str, check: bool = True) -> str:
        """docker compose, of this project."""
        environment = {
            **os.environ,
            "JOBWORKER_VERSION": self.tag,
            "JOBWORKER_EXECUTOR_IMAGE": f"{EXECUTOR_IMAGE}:test",
            "JOBWORKER_GRPC_PORT": str(self.port),
            "JOBWORKER_REST_PORT": str(self.rest_port),
            "JOBWORKER_METRICS_PORT": str(self.metrics_port),
            **self._variables,
        }
        files = ["--file", str(ROOT / "compose.yaml"), "--file", str(self.folder / "override.yaml")]
        return docker(
            "compose", "--progress", "quiet", "--project-name", self.name, *files, *arguments,
            check=check, env=environment, cwd=ROOT,
        )  # fmt: skip

    def up(self) -> None:
        """Everything runs, and an executor is attached."""
        self.compose("up", "--detach", "--no-build")
        self.attached(1)

    def attached(self, times: int) -> None:
        """Waits until this server's container let in an executor so often."""
        until(lambda: self.logs("server").count("executor attached") >= times, f"an executor: {self.logs()}")

    def logs(self, *services: str) -> str:
        """What the containers printed."""
        return self.compose("logs", "--no-color", *services, check=False)

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of it."""
        (found,) = json.loads(docker("inspect", self.container(service)))
        return dict(found)

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        """Runs a command in a container."""
        return docker("exec", self.container(service), *command, check=check)

    def bundle(self) -> Path:
        """The administrator's bundle, copied out by the documented command."""
        target = self.folder / "admin"
        if not target.exists():
            self.compose("cp", "server:/etc/jobworker/pki/clients/admin", str(target))
        return target

    def api(self) -> Api:
        """The administrator, from outside."""
        bundle = self.bundle()
        api = Api(self.port, bundle)
        self._apis.append(api)
        api.login("admin", (bundle / "password").read_text().strip())
        return api

    def down(self) -> None:
        """Nothing of it is left."""
        for api in self._apis:
            api.close()
        self.compose("down", "--volumes", "--timeout", "20", check=False)


@contextlib.contextmanager
def stack(folder: Path, tag: str, **options: Any) -> Iterator[Stack]:
    """A project for some tests."""
    made = Stack(folder, tag, **options)
    try:
        made.up()
        yield made
    finally:
        made.down()

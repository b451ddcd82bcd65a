"""What is in the images, and what is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testcontainers.core.container import DockerContainer

from tests.harness.compose import EXECUTOR_IMAGE, ROOT, SERVER_IMAGE, docker, image_id

pytestmark = pytest.mark.engine
TOOLS = Path(sys.executable).parent


def config(image: str) -> dict[str, Any]:
    (found,) = json.loads(docker("image", "inspect", image))
    return dict(found["Config"])


def run(image: str, *command: str) -> str:
    """A command in a container as it is to be run: read-only, no rights, no network."""
    container = DockerContainer(image).with_kwargs(
        entrypoint=list(command), read_only=True, network_mode="none", cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
    )  # fmt: skip
    with container as started:
        wrapped = started.get_wrapped_container()
        status = wrapped.wait(timeout=60)["StatusCode"]
        output = wrapped.logs().decode()
    assert status == 0, output
    return str(output)


def test_the_dockerfile_is_clean() -> None:
    subprocess.run([TOOLS / "hadolint", ROOT / "Dockerfile"], check=True)


def test_the_scripts_are_clean() -> None:
    subprocess.run([TOOLS / "shellcheck", ROOT / "docker" / "engine", ROOT / "docker" / "images"], check=True)


def test_the_locks_of_the_image_agree_with_the_one_that_is_tested() -> None:
    tested = pins(ROOT / "requirements.lock")
    for name in ("server.lock", "build.lock"):
        ours = pins(ROOT / "docker" / name)
        assert ours
        assert ours.items() <= tested.items()


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize(("name", "uid"), [(SERVER_IMAGE, "10001"), (EXECUTOR_IMAGE, "10002")])
def test_nobody_is_root(images: str, name: str, uid: str) -> None:
    assert config(f"{name}:{images}")["User"] == f"{uid}:{uid}"
    assert run(f"{name}:{images}", "id", "-u").strip() == uid


@pytest.mark.parametrize("name", [SERVER_IMAGE, EXECUTOR_IMAGE])
def test_there_is_no_compiler_no_wheel_and_no_cache_of_pip(images: str, name: str) -> None:
    assert run(f"{name}:{images}", "sh", "-c", "command -v gcc cc g++ ld make rustc cargo || echo none") == "none\n"
    found = run(f"{name}:{images}", "sh", "-c",
                "find / -xdev \\( -name '*.whl' -o -path '*/.cache/pip' -o -path /src -o -path /build \\) 2>/dev/null "
                "| grep -v /usr/share/python-wheels/ | grep -v /ensurepip/ || true")  # fmt: skip
    assert found == ""


def test_the_servers_environment_has_no_pip(images: str) -> None:
    listed = run(f"{SERVER_IMAGE}:{images}", "ls", "/opt/jobworker/bin")
    assert "jobworker" in listed
    assert "pip" not in listed


def test_the_image_tells_what_it_is(images: str) -> None:
    server = config(f"{SERVER_IMAGE}:{images}")
    assert server["Labels"]["org.opencontainers.image.title"] == "jobworker"
    assert server["Labels"]["org.opencontainers.image.version"] == images
    assert server["Healthcheck"]["Test"] == ["CMD", "jobworker", "healthcheck"]
    assert server["StopSignal"] == "SIGTERM"
    assert server["Entrypoint"] == ["jobworker"]


def test_the_executors_image_adds_one_zipapp_to_its_base(images: str) -> None:
    executor = config(f"{EXECUTOR_IMAGE}:{images}")
    assert "org.opencontainers.image.version" not in executor["Labels"]
    assert run(f"{EXECUTOR_IMAGE}:{images}", "find", "/usr/local/lib/jobworker", "-type", "f").split() == [
        "/usr/local/lib/jobworker/executor.pyz"
    ]
    assert run(f"{EXECUTOR_IMAGE}:{images}", "sh", "-c", "ls /opt; command -v jobworker || echo none") == "none\n"


def test_the_executors_image_does_not_change_with_the_version(images: str, newer_version: str) -> None:
    assert image_id(f"{EXECUTOR_IMAGE}:{newer_version}") == image_id(f"{EXECUTOR_IMAGE}:{images}")
    assert image_id(f"{SERVER_IMAGE}:{newer_version}") != image_id(f"{SERVER_IMAGE}:{images}")


@pytest.mark.parametrize("command", [(SERVER_IMAGE, "executor"), (EXECUTOR_IMAGE,)])
def test_the_zipapp_can_be_copied_beside_another_image(images: str, command: tuple[str, ...], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    image, *verb = command
    docker("run", "--rm", "--read-only", "--network", "none", "--volume", f"{tmp_path}:/to", f"{image}:{images}",
           *verb, "--copy-to", "/to")  # fmt: skip
    helped = subprocess.run(
        [sys.executable, "-I", "-S", tmp_path / "executor.pyz", "--help"], capture_output=True, text=True, check=True
    )
    assert "--connect" in helped.stdout


def test_the_images_are_small_and_their_sizes_are_told(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = os.environ.get("BASE_IMAGE", "python:3.13-slim-trixie")
    names = (base, f"{EXECUTOR_IMAGE}:{images}", f"{SERVER_IMAGE}:{images}")
    of_base, executor, server = (int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in names)
    with capsys.disabled():
        print(f"\nMB: {base} {of_base / 1e6:.0f}, executor {executor / 1e6:.0f}, server {server / 1e6:.0f}")
    assert executor - of_base < 5_000_000
    assert server - of_base < 150_000_000

"""The programs beside the service, as compose runs them: shut in, reached from this machine alone, of the versions that
the tests run."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.harness import gotools
from tests.harness.prometheus import prometheus_programs
from tests.observability.repo import DOCKER

SERVICES: dict[str, Any] = yaml.safe_load((DOCKER / "observability.compose.yaml").read_text())["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_shut_in(name: str) -> None:
    service = SERVICES[name]
    assert service["profiles"] == ["observability"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    own = [volume for volume in service.get("volumes", []) if volume.startswith((".", "/"))]
    assert all(volume.endswith(":ro") for volume in own)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"otel-storage"}))
def test_each_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z-]+/[a-z-]+:\$\{[A-Z_]+_VERSION:-v?\d+\.\d+\.\d+\}", SERVICES[name]["image"])


@pytest.mark.parametrize(
    ("service", "program"),
    [("prometheus", "prometheus"), ("alertmanager", "alertmanager"), ("node-exporter", "node_exporter")],
)
def test_the_version_is_the_one_that_the_tests_run(service: str, program: str) -> None:
    done = subprocess.run([prometheus_programs() / program, "--version"], check=True, capture_output=True, text=True)
    assert _version(service) in re.split(r"[ ,+(]", done.stdout + done.stderr)


def test_the_versions_of_what_is_built_are_those_that_the_tests_run() -> None:
    assert f"version: {_version('otel-collector')}\n" in gotools.BUILDER.read_text()
    # The sources of Jaeger 2.N are served under the number of the 1.(N + 63) that was released with it.
    major, minor, _ = _version("jaeger").split(".")
    assert major == "2"
    assert f"@v1.{int(minor) + 63}." in gotools.JAEGER


@pytest.mark.parametrize("name", SERVICES)
def test_each_mounted_file_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.partition(":")[0]
        if source.startswith("./"):
            assert (DOCKER / source).exists()


def _version(service: str) -> str:
    found = re.search(r":-v?([\d.]+)\}", SERVICES[service]["image"])
    assert found is not None
    return found[1]

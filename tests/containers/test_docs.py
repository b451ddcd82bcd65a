"""What docs/compose.md shows works as it is shown: another user, backing up and restoring, rotating."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2
from tests.harness.compose import EXECUTOR_IMAGE, ROOT, SERVER_IMAGE, Stack
from tests.harness.docs import blocks
from tests.harness.pki import shown_certificate
from tests.harness.service import Api
from tests.harness.wait import until

pytestmark = pytest.mark.engine


def run(stack: Stack, heading: str, tmp_path: Path) -> None:
    """Every command of a section, in a folder of its own, on this stack instead of the default one."""
    shown = "\n".join(blocks("compose.md", heading, "console"))
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)", shown, re.MULTILINE)
    assert commands
    environment = {
        **os.environ,
        "COMPOSE_FILE": f"{ROOT / 'compose.yaml'}",
        "COMPOSE_PROJECT_NAME": stack.name,
        "JOBWORKER_VERSION": stack.tag,
        "JOBWORKER_EXECUTOR_IMAGE": f"{EXECUTOR_IMAGE}:test",
        "JOBWORKER_GRPC_PORT": str(stack.port),
        "JOBWORKER_REST_PORT": str(stack.rest_port),
        "JOBWORKER_METRICS_PORT": str(stack.metrics_port),
    }
    for command in commands:
        ours = re.sub(r"\bjobworker_(data|pki)", rf"{stack.name}_\1", command).replace(
            "jobworker:dev", f"{SERVER_IMAGE}:{stack.tag}"
        )
        done = subprocess.run(
            ["bash", "-euc", ours], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{ours}: {done.stdout}{done.stderr}"


def test_a_user_is_added_while_the_service_runs(stack: Stack, tmp_path: Path) -> None:
    run(stack, "Another user", tmp_path)
    api = Api(stack.port, tmp_path / "alice")
    api.login("alice", (tmp_path / "alice" / "password").read_text().strip())
    assert api.wait(api.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED
    api.close()


def test_certificates_are_rotated_and_jobs_run_on(stack: Stack, tmp_path: Path) -> None:
    api = stack.api()
    batch = api.submit("sleep 5; echo done")
    before = shown_certificate(stack.port, stack.bundle())
    run(stack, "Rotate", tmp_path)
    until(lambda: shown_certificate(stack.port, stack.bundle()) != before, "the server shows the new certificate")
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert api.log(batch) == b"done\n"
    assert stack.execute("server", "jobworker", "healthcheck").endswith("SERVING\n")


def test_a_backup_is_restored_with_its_batches_and_keys(stack: Stack, tmp_path: Path) -> None:
    api = stack.api()
    batch = api.submit("echo precious")
    api.wait(batch)
    run(stack, "Back up and restore", tmp_path)
    stack.attached(1)
    shutil.rmtree(stack.bundle())
    assert stack.api().log(batch) == b"precious\n"

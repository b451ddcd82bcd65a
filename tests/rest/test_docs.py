"""docs/rest.md: its example works as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.harness.service import Service

ROOT = Path(__file__).parents[2]


def test_the_example_works_as_it_stands(shared_service: Service) -> None:
    found = re.search(r"```sh\n(.*?)```", (ROOT / "docs/rest.md").read_text(), re.DOTALL)
    assert found
    script = found[1].replace("var/pki", str(shared_service.pki)).replace(":8443", f":{shared_service.rest_port}")
    done = subprocess.run(["bash", "-euc", f"TOKEN=; {script}"], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert '"state":"BATCH_STATE_SUCCEEDED"' in done.stdout
    assert '"data":"aGkK"' in done.stdout  # hi
    assert done.stdout.endswith('"jobCount":2}')


def test_neither_password_nor_token_is_among_the_arguments_of_a_program(
    shared_service: Service, tmp_path: Path
) -> None:
    curl = tmp_path / "curl"
    curl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\nexec {shutil.which("curl")} "$@"\n')
    curl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TOKEN": "a-token"}
    for page in ("docs/rest.md", "README.md"):
        for found in re.findall(r"```sh\n(.*?curl.*?)```", (ROOT / page).read_text(), re.DOTALL):
            script = found.replace("var/pki", str(shared_service.pki)).replace(":8443", f":{shared_service.rest_port}")
            done = subprocess.run(
                ["bash", "-euc", script], check=True, capture_output=True, text=True, env=environment, timeout=60
            )
            assert '"accessToken"' in done.stdout or page == "docs/rest.md"
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.count("/v1/auth/login") == 2
    for secret in ("a-token", "eyJ", shared_service.passwords["admin"], shared_service.passwords["alice"]):
        assert secret not in arguments

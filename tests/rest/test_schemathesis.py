"""schemathesis against the whole service: what /openapi.json says is what it does, for requests good and bad."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.rest import rest
from tests.harness.service import Service

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
EXAMPLES = 60


@pytest.mark.parametrize(("user", "selection", "phases"), [
    ("alice", ["--exclude-tag", "AdminService"], "examples,coverage,fuzzing,stateful"),
    ("admin", ["--include-tag", "AdminService"], "examples,coverage,fuzzing"),
])  # fmt: skip
def test_the_service_does_what_its_description_says(
    service: Service, tmp_path: Path, user: str, selection: list[str], phases: str
) -> None:
    bundle = service.pki / "clients" / user
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run",
            f"https://localhost:{service.rest_port}/openapi.json",
            "--header", f"Authorization: Bearer {rest(service, user).token}",
            "--tls-verify", bundle / "ca.crt", "--request-cert", bundle / "tls.crt",
            "--request-cert-key", bundle / "tls.key",
            "--phases", phases, "--max-examples", str(EXAMPLES), "--seed", "1",
            "--request-timeout", "60", "--continue-on-failure", "--suppress-health-check", "all",
            # A request may be of the right form and still mean nothing: a job with no command, a batch that is unknown.
            "--exclude-checks", "positive_data_acceptance",
            "--exclude-operation-id", "Logout",  # it would end its own token
            *selection,
        ],
        check=False, cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert service.child("server")
    if user == "alice":  # from an answer that names a batch to what may be done with that
        covered = re.search(r"API Links: +(\d+) covered", done.stdout)
        assert covered is not None, done.stdout[-3000:]
        assert int(covered[1]) > 10, done.stdout[-3000:]

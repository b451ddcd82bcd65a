"""docs/rest.md: its example works as it stands."""

from __future__ import annotations

import re
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

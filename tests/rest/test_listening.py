"""The listener itself: on, off, and not possible."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.harness.rest import rest
from tests.harness.service import Service, running


def test_without_rest_the_rest_works(tmp_path: Path) -> None:
    with running(tmp_path / "service", REST__ENABLED="false") as service:
        api = service.api("alice")
        assert api.wait(api.submit("true")).counts.succeeded == 1
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", service.rest_port)) != 0


def test_a_port_that_is_taken_ends_the_start_with_a_word(shared_service: Service, tmp_path: Path) -> None:
    other = Service(tmp_path / "other", REST__PORT=str(shared_service.rest_port), PATHS__PKI=str(shared_service.pki))
    other.folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "jobworker.server.cli", "run"],
        env=other.environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"port {shared_service.rest_port} on 127.0.0.1 is taken by another process" in done.stderr
    assert rest(shared_service)("GET", "/v1/batches?page_size=1").status == 200


def test_every_address_can_be_listened_on(tmp_path: Path) -> None:
    every = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    with running(tmp_path / "service", REST__HOST=every) as service:
        assert rest(service)("GET", "/v1/batches").status == 200

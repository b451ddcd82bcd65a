"""The HTTP endpoint: its probes in each state of the service, and clients that mean no good."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from jobworker.v1 import schedule_pb2
from tests.harness.admin import Admin
from tests.harness.figures import OPENMETRICS, get, ready, scrape, until_value
from tests.harness.service import Service, running
from tests.harness.wait import alive, kill, until

WELL = {"grpc": True, "executor": True, "storage": True, "logins": True}


def until_ready(service: Service, state: str = "serving") -> None:
    wanted = (200, {"ready": True, "checks": WELL, "service": state})
    until(lambda: ready(service.metrics_port) == wanted, f"it is ready, and {state}")


def test_a_service_that_works_lives_and_is_ready(shared_service: Service) -> None:
    assert get(shared_service.metrics_port, "/livez")[::2] == (200, b"ok\n")
    until_ready(shared_service)


def test_a_service_whose_executor_does_not_come_back_is_not_ready_and_says_so(service: Service) -> None:
    until_ready(service)
    work = service.folder / "work"
    good = work.with_suffix(".good")
    work.rename(good)
    work.write_bytes(b"this is not a folder")
    kill(service.child("executor"))
    wanted = (503, {"ready": False, "checks": {**WELL, "executor": False}, "service": "serving"})
    until(lambda: ready(service.metrics_port) == wanted, "it is not ready for want of an executor")
    assert get(service.metrics_port, "/livez")[0] == 200
    until_value(service, "jobworker_executor_up", 0)
    work.unlink()
    good.rename(work)
    until_ready(service)
    assert until_value(service, "jobworker_executor_up", 1).value("jobworker_executor_starts_total") == 2


def test_a_service_that_an_administrator_stopped_stays_ready_since_only_calls_can_start_it_again(
    service: Service, scratch: Path
) -> None:
    admin, api, go = Admin(service), service.api(), scratch / "go"
    batch = api.submit(f"until [ -e {go} ]; do sleep 0.05; done")
    until_value(service, "jobworker_jobs_started_total", 1)
    admin.stop()
    until_ready(service, "draining")
    until_value(service, "jobworker_service_state", 1, state="draining")
    go.touch()
    api.wait(batch)
    until_ready(service, "stopped")
    now = until_value(service, "jobworker_service_state", 1, state="stopped")
    assert now.sum("jobworker_service_state") == 1
    admin.start()
    until_ready(service)


def test_a_server_that_is_told_to_end_is_not_ready_and_lives_until_its_calls_are_over(tmp_path: Path) -> None:
    with running(tmp_path / "service", GRPC__DRAIN_SECONDS="60") as service:
        api, more = service.api(), threading.Event()

        def jobs():
            yield schedule_pb2.JobRequest(command="true")
            more.wait(60)

        call = api.schedule.ExecuteJobs.future(jobs(), **api.call())
        until_value(service, "grpc_server_started_total", 1, grpc_method="ExecuteJobs")
        server = service.child("server")
        os.kill(server, signal.SIGTERM)
        wanted = (503, {"ready": False, "checks": {**WELL, "grpc": False}, "service": "serving"})
        until(lambda: ready(service.metrics_port) == wanted, "it is not ready any more")
        assert get(service.metrics_port, "/livez")[0] == 200
        assert scrape(service.metrics_port).value("jobworker_calls_under_way") == 1
        more.set()
        call.exception(60)
        until(lambda: not alive(server), "the server's end")


def test_other_paths_and_methods_are_refused(shared_service: Service) -> None:
    port = shared_service.metrics_port
    assert get(port, "/")[0] == get(port, "/metrics/../etc/passwd")[0] == get(port, "//metrics")[0] == 404
    for path in ("/metrics", "/livez", "/readyz"):
        status, headers, _ = get(port, path, method="POST")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert get(port, path, method="HEAD")[0] in (200, 503)


def test_hostile_scrapers_hold_nothing_up(shared_service: Service) -> None:
    port = shared_service.metrics_port
    silent = []
    with contextlib.ExitStack() as stack:
        for _ in range(200):  # three times what has a place
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            silent.append(sock)
        # Each of them is closed, at once or after some seconds, and whoever means it well is answered.
        for sock in silent:
            with contextlib.suppress(ConnectionError):
                while sock.recv(65536):
                    pass
        assert get(port, "/livez")[0] == 200
    for accept in (OPENMETRICS + ";version=" + "9." * 500, "application/openmetrics-text; version=evil", "\xff" * 100):
        assert get(port, "/metrics", Accept=accept)[0] == 200
    assert get(port, "/metrics", **{"X-Long": "x" * 100_000})[0] == 400
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in sock.recv(65536).partition(b"\r\n")[0]
    assert get(port, "/metrics")[0] == 200


def test_readers_that_take_nothing_keep_nobody_else_waiting_for_long(shared_service: Service) -> None:
    port = shared_service.metrics_port

    def answered() -> bool:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            return get(port, "/metrics")[0] == 200
        return False

    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", port))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        until(answered, "somebody else is answered")


def test_the_endpoint_can_be_left_out(tmp_path: Path) -> None:
    with running(tmp_path / "service", METRICS__ENABLED="false") as service:
        assert service.api().submit("true")
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", service.metrics_port)) != 0


def test_a_free_port_is_taken_for_0_and_told_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path / "service", METRICS__PORT="0") as service:
        log = service.folder / "logs" / "service.jsonl"

        def listening_line() -> Any:
            lines = map(json.loads, log.read_text().splitlines())
            return next((line for line in lines if line["event"] == "listening"), None)

        listening = until(listening_line, "it says where it listens")
        assert listening["metrics_host"] == "127.0.0.1"
        assert get(listening["metrics_port"], "/livez")[0] == 200


def test_a_port_that_is_taken_ends_the_start_with_a_word(shared_service: Service, tmp_path: Path) -> None:
    port = shared_service.metrics_port
    other = Service(tmp_path / "other", METRICS__PORT=str(port), PATHS__PKI=str(shared_service.pki))
    other.folder.mkdir()
    command = [sys.executable, "-m", "jobworker.server.cli", "run"]
    done = subprocess.run(command, env=other.environment(), check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 78
    assert f"metrics: port {port} on 127.0.0.1 is taken by another process" in done.stderr

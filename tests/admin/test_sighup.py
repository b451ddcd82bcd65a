"""SIGHUP: the configuration is read again, or the terminal is gone."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness.admin import Admin
from tests.harness.pki import make_pki
from tests.harness.service import Service
from tests.harness.wait import until

# Gives the process its standard input as controlling terminal, as login(1) does.
AT_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("process", ["supervisor", "server"])
def test_sighup_has_the_file_read_where_no_event_tells_of_it(tmp_path: Path, process: str) -> None:
    """A folder above the file's that is a symlink: nobody watches what it leads to."""
    for name, running in (("a", 11), ("b", 12)):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "jobworker.toml").write_text(f"[jobs]\nrunning = {running}\n")
    link = tmp_path / "now"
    link.symlink_to("a")
    service = Service(tmp_path / "service", CONFIG=str(link / "etc" / "jobworker.toml"))
    try:
        admin = Admin(service.start())
        other = tmp_path / "other"
        other.symlink_to("b")
        other.rename(link)
        assert admin.value("jobs.running") == (11, "file")
        server = service.child("server")
        os.kill(service.pid if process == "supervisor" else server, signal.SIGHUP)
        admin.took_over("jobs.running", 12)
        assert service.child("server") == server
    finally:
        service.stop()


def test_sighup_at_any_moment_of_a_start_ends_nothing(tmp_path: Path) -> None:
    service = Service(tmp_path / "service").start()
    try:
        for _ in range(5):
            done = threading.Event()

            def hang_up(done: threading.Event = done) -> None:
                while not done.is_set():
                    os.kill(service.pid, signal.SIGHUP)
                    done.wait(0.01)

            thread = threading.Thread(target=hang_up)
            thread.start()
            service.kill_server()
            service.ready()
            done.set()
            thread.join()
        assert service.output().count("the server ended with signal 9") == 5
        assert service.output().count(" ended with ") == 5
    finally:
        service.stop()


def test_a_service_ends_with_the_terminal_that_it_was_started_from(tmp_path: Path) -> None:
    service = Service(tmp_path / "service")
    make_pki(service.pki)
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, sys.executable, "-m", "jobworker.server.cli", "run"],
        env=service.environment(), stdin=terminal, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        until((service.data / "config.json").exists, "it has started")
        process.send_signal(signal.SIGHUP)  # with its terminal there, that is a reload
        until(lambda: reached(service), "it answers")
        assert process.poll() is None
        os.close(master)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def reached(service: Service) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", service.port)) == 0

"""Whoever renames what lies above the service's folders, and puts others in their place, changes nothing: the service
goes on in its own, also after the death of its server and of its executor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from jobpki.layout import Layout
from jobworker.v1 import job_pb2
from tests.harness.admin import Admin
from tests.harness.pki import Pki, make_pki
from tests.harness.service import Api, Service, running
from tests.harness.wait import alive, until


def forge(service: Service, place: Path) -> Pki:
    """Folders such as the service's: with its certificates, and with users, passwords and a token key of our own."""
    forged = make_pki(place / "pki")
    true, false = Layout(service.pki), Layout(forged.root)
    for theirs, ours in ((true.ca, false.ca), (true.server, false.server), (true.clients, false.clients)):
        shutil.rmtree(ours)
        shutil.copytree(theirs, ours)
    for name in ("data", "logs", "run", "work"):
        (place / name).mkdir(mode=0o700)
    (place / "run/config.toml").write_text("[jobs]\nrunning = 77\n")
    return forged


def lets_in(api: Api, password: str) -> bool:
    """Whether admin may log in with a password."""
    try:
        api.login("admin", password)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


def kill_executor(service: Service) -> None:
    """kill -9; its supervisor starts another."""
    pid = service.child("executor")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the executor's end")
    service.child("executor")


@pytest.mark.parametrize("with_link", [True, False], ids=["a link", "a folder"])
def test_folders_that_take_the_place_of_the_services_are_never_used(tmp_path: Path, with_link: bool) -> None:
    file = tmp_path / "jobworker.toml"
    file.write_text("[jobs]\nrunning = 3\n")
    foreign, moved = tmp_path / "foreign", tmp_path / "moved"
    with running(tmp_path / "service", {"JOBWORKER_CONFIG": str(file)}) as service:
        admin, alice = Admin(service), service.api("alice")
        batch = alice.submit("echo kept")
        alice.wait(batch)
        forged = forge(service, foreign)

        service.folder.rename(moved)
        if with_link:
            service.folder.symlink_to(foreign)
        else:
            foreign.rename(service.folder)
            foreign = service.folder

        def is_as_before() -> None:
            assert not lets_in(admin.api, forged.passwords["admin"])
            assert lets_in(admin.api, service.passwords["admin"])
            assert alice.log(batch) == b"kept\n"  # with the token from before: the token key is the same
            assert admin.value("jobs.running")[0] == 3
            assert admin.status().disk.path == str(service.data)

        is_as_before()
        file.write_text("[jobs\n")  # so that the next server takes what was kept of it
        kill_executor(service)
        service.kill_server()
        is_as_before()
        later = alice.submit("pwd")
        assert alice.wait(later).state == job_pb2.BATCH_STATE_SUCCEEDED
        until(lambda: [*(moved / "data/batches/alice").glob(f"*/*/{later}")], "it lies in the folder that was moved")
        assert os.listdir(foreign / "data") == os.listdir(foreign / "logs") == []
        assert os.listdir(foreign / "run") == ["config.toml"]
    log = (moved / "logs/service.jsonl").read_text()
    assert log.count('"event": "recovered"') == 2
    assert "/proc/self/fd" not in log


@pytest.mark.parametrize("name", ["data", "logs", "run", "pki"])
def test_a_folder_that_every_user_may_write_is_refused(tmp_path: Path, name: str) -> None:
    service = Service(tmp_path / "service")
    make_pki(service.pki)
    folder = service.folder / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    result = subprocess.run(
        [sys.executable, "-m", "jobworker.server.cli", "run"],
        env=service.environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 78, result
    assert result.stderr.startswith(
        f"jobworker: {folder}: every user of this machine may put files into it (mode 0777)"
    )
    assert result.stderr.endswith(f"run: chmod go-w {folder}\n")

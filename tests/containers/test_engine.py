"""docker/engine: it starts at its first attempt, and after an engine that was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.wait import processes_of, until

ENGINE = Path(__file__).parents[2] / "docker" / "engine"


class Engine:
    """One of its own, in a network namespace of its own, so that it meets no other engine's bridge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, verb: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """docker/engine with the verb; what it and dockerd's log said is in the error when it fails."""
        environment = {**os.environ, "ENGINE_DIR": str(self.folder), **environment}
        command = ["unshare", "--net", str(ENGINE), verb]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done

    def processes(self) -> list[int]:
        """dockerd and its containerd."""
        files = ("pid", "exec/containerd/containerd.toml")
        return [pid for file in files for pid in processes_of(str(self.folder / file))]

    def kill(self) -> None:
        """Everything, at once, with no chance to tidy up."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), "the engine's end")

    def unmounted(self) -> bool:
        """Each that was killed leaves its folder of images mounted on itself, busy until the kernel has ended it."""
        subprocess.run(["umount", self.folder / "data"], capture_output=True, check=False)
        return str(self.folder) not in Path("/proc/self/mounts").read_text()


@pytest.fixture
def own_engine(engine: str) -> Iterator[Engine]:
    """Not started. `engine` has seen to it that the programs are there."""
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/var/tmp"))  # short, for its sockets' addresses
    made = Engine(folder)
    try:
        yield made
    finally:
        made.kill()
        until(made.unmounted, "an engine's folder that nobody uses")
        shutil.rmtree(folder)


def answers(host: str) -> bool:
    """An engine is behind it."""
    return subprocess.run(["docker", "--host", host, "info"], capture_output=True, check=False).returncode == 0


def test_one_that_is_slow_to_start_is_waited_for(own_engine: Engine, tmp_path: Path) -> None:
    slow = tmp_path / "dockerd"
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {shutil.which("dockerd")} "$@"\n')
    slow.chmod(0o755)
    done = own_engine.run("start", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.stderr.splitlines() == [f"docker/engine: starting dockerd in {own_engine.folder}"]
    assert answers(done.stdout.strip())
    assert own_engine.run("start").stderr == ""  # it runs: nothing to do
    own_engine.run("down")
    assert not own_engine.processes()


def test_it_starts_after_one_that_was_killed(own_engine: Engine) -> None:
    own_engine.run("start")
    own_engine.kill()
    assert answers(own_engine.run("start").stdout.strip())
    assert len(own_engine.processes()) == 2


def test_a_containerd_that_outlived_its_engine_is_ended(own_engine: Engine) -> None:
    own_engine.run("start")
    dockerd = int((own_engine.folder / "pid").read_text())
    (containerd,) = set(own_engine.processes()) - {dockerd}
    os.kill(dockerd, signal.SIGKILL)
    assert answers(own_engine.run("start").stdout.strip())
    assert containerd not in own_engine.processes()

"""`jobworker fsck` on folders that a real service wrote, and that were then damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobworker.server.store.frames import group_frame, results_frame, segment_frame
from tests.harness.service import Service, running
from tests.harness.wait import until


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The data folder of a service that has stopped, and the id of a finished batch in it."""
    root = tmp_path_factory.mktemp("fsck") / "service"
    with running(root) as service:
        api = service.api()
        name = api.submit("echo one", "exit 3")
        api.wait(name)
        until(lambda: not any((service.data / "active").iterdir()), "it is stored")
        service.kill_server()  # a start leaves nothing of finished batches in the log
        service.ready()
        data = service.data
    return data, name


@pytest.fixture
def data(written: tuple[Path, str], tmp_path: Path) -> tuple[Path, Path]:
    """A copy, and the finished batch's folder in it."""
    shutil.copytree(written[0], tmp_path / "data")
    (folder,) = (tmp_path / "data" / "batches").glob(f"*/*/*/{written[1]}")
    return tmp_path / "data", folder


def fsck(data: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "jobworker.server.cli", "fsck", "--data", str(data), "-o", "json", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}


def snapshot(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def test_a_folder_in_which_nothing_is_wrong_is_said_to_be_so(data: tuple[Path, Path]) -> None:
    status, found = fsck(data[0])
    assert (status, found["problems"], found["batches"]) == (0, [], 1)


@pytest.mark.parametrize(
    "behind", [b"", b"\0" * 500, b'{"k":"final","coun'], ids=["nothing", "nul bytes", "a torn line"]
)
def test_a_closing_line_that_is_damaged_is_written_again(data: tuple[Path, Path], behind: bytes) -> None:
    results = data[1] / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole[: whole.index(b'{"k":"final"')] + behind)
    before = snapshot(data[0])
    status, found = fsck(data[0])
    assert status == 4
    assert "--repair" not in str(found)
    assert found["problems"][-1]["repair"] == "write it"
    assert snapshot(data[0]) == before, "without --repair nothing is changed"
    assert fsck(data[0], "--repair")[0] == 1
    assert results.read_bytes() == whole
    assert fsck(data[0])[0] == 0


def test_an_end_that_is_damaged_is_told_and_left_alone(data: tuple[Path, Path]) -> None:
    results = data[1] / "results.jsonl"
    whole = results.read_bytes()
    at = whole.index(b'{"k":"end"')
    results.write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    status, found = fsck(data[0], "--repair")
    assert status == 4
    whats = [problem["what"] for problem in found["problems"]]
    assert any("a damaged line" in what for what in whats)
    assert "1 jobs have no end" in whats
    assert results.read_bytes()[at : at + 1] == b"X"


def test_a_batch_that_was_never_accepted_is_removed(data: tuple[Path, Path]) -> None:
    folder = data[0] / "active" / "01a22e75-154b-7cb0-aaf6-46b3affad50e"
    folder.mkdir()
    (folder / "batch.jsonl").write_bytes(b'{"v":1,')
    assert fsck(data[0])[0] == 4
    status, found = fsck(data[0], "--repair")
    assert (status, [problem["repaired"] for problem in found["problems"]]) == (1, [True])
    assert not folder.exists()


def test_damage_of_the_commit_log_is_told(data: tuple[Path, Path], service: Service) -> None:
    (segment,) = (data[0] / "commit").glob("*.log")
    frame = results_frame("01a22e75-154b-7cb0-aaf6-46b3affad50e", 0, b'{"k":"back","job":1}\n')
    damaged = frame.replace(b"back", b"bacX")
    segment.write_bytes(segment_frame(1, "boot") + group_frame(len(frame)) + damaged + group_frame(len(frame)) + frame)
    status, found = fsck(data[0], "--repair")
    assert status == 4
    assert ["cannot be read at byte" in problem["what"] for problem in found["problems"]] == [True]
    # While a server has the folder, it is not looked at.
    status, said = fsck(service.data)
    assert status == 8
    assert "in use" in said["said"]


def test_another_folder_is_none_of_ours(tmp_path: Path) -> None:
    status, said = fsck(tmp_path)
    assert status == 8
    assert "is not a data folder" in said["said"]
    assert os.listdir(tmp_path) == []

"""Work folders: where a batch's jobs start, and what they leave; what batches share goes with the last of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.executor.work import empty
from tests.harness.executor import BATCH, Executor, wait_until

OTHER = "019312d4-5c00-7abc-8def-00000000beef"


@pytest.fixture
def work(scratch: Path) -> Path:
    """Where another user than root can go."""
    return scratch / "work"


@pytest.fixture(params=["auto", "none"])
def executor(pyz: Path, tmp_path: Path, work: Path, request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(pyz, tmp_path, "--isolate", request.param, "--work", str(work)) as made:
        made.attach()
        yield made


def test_the_jobs_of_a_batch_start_in_its_folder_which_is_their_home(executor: Executor, work: Path) -> None:
    (first,) = executor.give(executor.order("pwd; echo $HOME; echo kept > note"))
    executor.end(first)
    (second,) = executor.give(executor.order("cat note ~/note"))
    (other,) = executor.give(executor.order("pwd; ls", name=f"{OTHER}/0"))
    assert executor.log(first).decode().split() == [str(work / "batches" / BATCH)] * 2
    executor.end(second)
    executor.end(other)
    assert executor.log(second) == b"kept\nkept\n"
    assert executor.log(other).decode().split() == [str(work / "batches" / OTHER)]


def test_a_request_may_name_another_home_and_another_folder(executor: Executor, work: Path) -> None:
    (name,) = executor.give(executor.order("pwd; echo $HOME", env={"HOME": "/etc"}, cwd="/usr"))
    executor.end(name)
    assert executor.log(name) == b"/usr\n/etc\n"


def test_a_work_folder_goes_when_its_batch_is_over_whatever_is_in_it(executor: Executor, work: Path) -> None:
    hostile = """
        ln -s /etc/passwd link; mkdir -p shut/inner; touch shut/inner/file; chmod 0 shut/inner shut; mkfifo pipe
        d=x; for i in $(seq 1 300); do mkdir $d; cd $d; done; touch bottom; chmod 0 .
    """
    assert executor.run(hostile)["code"] == 0
    executor.run("touch note", "", name=f"{OTHER}/0")
    executor.send({"m": "over", "batches": [BATCH, "unknown"]})
    wait_until(lambda: sorted(os.listdir(work / "batches")) == [".removed", OTHER], "the folder's end")
    wait_until(lambda: not os.listdir(work / "batches/.removed"), "the end of what was in it")
    assert Path("/etc/passwd").read_text()


def test_what_no_server_knows_of_any_more_goes(executor: Executor, work: Path) -> None:
    executor.run("true", "")
    executor.run("true", "", name=f"{OTHER}/0")
    executor.send({"m": "batches", "ids": [OTHER]})
    wait_until(lambda: sorted(os.listdir(work / "batches")) == [".removed", OTHER], "the folder's end")


def test_an_executor_begins_with_no_work_folder_of_another(pyz: Path, tmp_path: Path, work: Path) -> None:
    for _ in range(2):
        with Executor(pyz, tmp_path, "--work", str(work)) as executor:
            executor.attach()
            (name,) = executor.give(executor.order("ls -A; touch note"))
            executor.end(name)
            assert executor.log(name) == b""
            executor.process.kill()
            executor.process.wait()
    assert (work / "batches" / BATCH / "note").exists()


@pytest.fixture
def outside() -> Iterator[Path]:
    """Not below /tmp, so that jobs have their /tmp in it, on disk."""
    folder = Path(f"/srv/jobworker-work-{os.getpid()}")
    yield folder
    shutil.rmtree(folder)


def test_what_a_job_puts_in_the_place_of_the_executors_folders_stops_no_later_one(
    pyz: Path, tmp_path: Path, work: Path
) -> None:
    for attack in ("rm -rf .removed; ln -s /etc .removed", "rm -rf .removed; mkfifo .removed; chmod 0 ."):
        for command in (
            f"cd ..; {attack}",
            "ls ../..; touch ../../mine; mv ../../tmp ../../x; mv ../../batches ../../x",
        ):
            with Executor(pyz, tmp_path, "--work", str(work)) as executor:
                executor.attach()
                assert executor.run(command)["reason"] == "exited"
    assert sorted(os.listdir(work)) == ["batches", "tmp"]
    with Executor(pyz, tmp_path, "--work", str(work)) as executor:
        executor.attach()
        assert executor.run("touch note; exit 3")["code"] == 3


def test_what_batches_share_goes_with_the_last_of_them(pyz: Path, tmp_path: Path, outside: Path) -> None:
    leave = "touch /tmp/left /dev/shm/left; ipcmk -M 4096 -Q -S 1 >/dev/null"
    look = "ls /tmp/left /dev/shm/left 2>/dev/null; ipcs -m -q -s | grep -c ^0x"
    # Nothing of the test's lies below /tmp in the jobs' eyes.
    with Executor(pyz, tmp_path, "--work", str(outside), sees_tests=False) as executor:
        executor.attach()
        assert executor.hello["isolation"] == "namespaces"
        assert executor.run(leave)["code"] == 0
        assert (outside / "tmp/left").exists()
        executor.run("true", "", name=f"{OTHER}/0")
        executor.send({"m": "over", "batches": [OTHER]})
        (name,) = executor.give(executor.order(look))
        executor.end(name)
        assert executor.log(name) == b"/dev/shm/left\n/tmp/left\n3\n"
        executor.send({"m": "over", "batches": [BATCH]})
        (name,) = executor.give(executor.order(look))
        executor.end(name)
        assert executor.log(name) == b"0\n"
    assert not Path("/dev/shm/left").exists()


def test_a_job_that_shuts_what_batches_share_ends_nobody_else(pyz: Path, tmp_path: Path, outside: Path) -> None:
    with Executor(pyz, tmp_path, "--work", str(outside), sees_tests=False) as executor:
        executor.attach()
        (name,) = executor.give(executor.order("touch left /tmp/left; cd ..; chmod 0 . /tmp"))
        assert executor.end(name)["code"] == 0, executor.log(name)
        executor.send({"m": "over", "batches": [BATCH]})
        wait_until(lambda: not (outside / "batches" / BATCH).exists(), "the folder's end")
        wait_until(lambda: not os.listdir(outside / "batches/.removed"), "the end of what was in it")
        assert not (outside / "tmp/left").exists()
        assert executor.run("touch here /tmp/here", name=f"{OTHER}/0")["code"] == 0
        assert (outside / "batches" / OTHER / "here").exists()


def test_a_tree_of_any_depth_is_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    trash = tmp_path / "trash"
    trash.mkdir()
    (trash / "link").symlink_to(outside)
    top = os.open(trash, os.O_RDONLY)
    at = os.dup(top)
    for number in range(3000):  # past what a path or a recursion may have
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
        if number % 500 == 0:
            os.symlink(outside, "link", dir_fd=at)
    os.close(at)
    os.close(top)
    empty(str(trash))
    assert os.listdir(trash) == []
    assert (outside / "file").exists()

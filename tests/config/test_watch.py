"""When a configuration file counts as changed: real folders, real inotify."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobworker.server.config.watch import FileWatch
from tests.harness.admin import ConfigMap

DEADLINE_SECONDS = 30.0


class Watched:
    """A watch, and what the file held each time that it said so."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seen: list[str | None] = []
        self._watch = FileWatch(file, changed=self._changed, loop=asyncio.get_running_loop())

    def _changed(self) -> None:
        try:
            self.seen.append(self.file.read_text())
        except OSError:
            self.seen.append(None)

    async def sees(self, content: str | None) -> None:
        """Waits until the watch has called with the file as it should be."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self.seen or self.seen[-1] != content:
                await asyncio.sleep(0.005)
        self.seen.clear()

    def close(self) -> None:
        self._watch.close()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """A file in a folder of its own."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "jobworker.toml").write_text("first")
    watched = Watched(folder / "jobworker.toml")
    yield watched
    watched.close()


async def test_a_file_that_is_written_or_replaced_again_and_again_is_noticed_each_time(watched: Watched) -> None:
    for number in range(3):
        watched.file.write_text(f"written {number}")
        await watched.sees(f"written {number}")
        other = watched.file.with_name("other")
        other.write_text(f"replaced {number}")
        other.rename(watched.file)
        await watched.sees(f"replaced {number}")


async def test_a_writer_that_has_not_closed_the_file_yet_wakes_nobody(watched: Watched) -> None:
    with watched.file.open("w") as file:
        file.write("half")
        file.flush()
        # A file beside it changes meanwhile: whoever waits for that one is told, later than all of the above.
        beside = Watched(watched.file.with_name("beside"))
        beside.file.write_text("beside")
        await beside.sees("beside")
        beside.close()
        assert watched.seen == []
        file.write(" and half")
    await watched.sees("half and half")


async def test_a_file_that_goes_and_comes_again_is_noticed(watched: Watched) -> None:
    watched.file.unlink()
    await watched.sees(None)
    watched.file.write_text("again")
    await watched.sees("again")


async def test_a_folder_that_goes_and_comes_again_is_noticed(watched: Watched) -> None:
    for _ in range(2):
        shutil.rmtree(watched.file.parent)
        await watched.sees(None)
        watched.file.parent.mkdir()
        watched.file.write_text("again")
        await watched.sees("again")
        moved = watched.file.parent.with_name("moved")
        watched.file.parent.rename(moved)
        await watched.sees(None)
        moved.rename(watched.file.parent)
        await watched.sees("again")


async def test_a_symlink_that_is_swapped_is_noticed_and_so_is_a_change_behind_it(watched: Watched) -> None:
    elsewhere = watched.file.parent.with_name("elsewhere")
    elsewhere.mkdir()
    for name in ("a", "b"):
        (elsewhere / name).write_text(name)
        link = watched.file.with_name("link")
        link.symlink_to(elsewhere / name)
        link.rename(watched.file)
        await watched.sees(name)
        (elsewhere / name).write_text(f"{name} anew")
        await watched.sees(f"{name} anew")


async def test_a_config_map_is_followed_over_many_swaps(tmp_path: Path) -> None:
    mount = ConfigMap(tmp_path / "mount", "0")
    watched = Watched(mount.file)
    for number in range(1, 6):
        mount.swap(str(number))
        await watched.sees(str(number))
    mount.swap(None)
    await watched.sees(None)
    mount.swap("back")
    await watched.sees("back")
    watched.close()


async def test_a_file_that_was_never_there_is_waited_for(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "a" / "b" / "file")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").mkdir()
    watched.file.write_text("there")
    await watched.sees("there")
    watched.close()


async def test_a_closed_watch_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Watched(tmp_path / "file").close()
    assert len(os.listdir("/proc/self/fd")) == before

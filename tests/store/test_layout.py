"""Where batches lie."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from jobworker.server.ids import CorrelationId
from jobworker.server.store.batchfiles import BatchFiles
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import Layout

NOW_MS = 1_700_000_000_000
MOVES = 1000


def test_a_batch_is_moved_to_the_finished_while_retention_removes_emptied_folders(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.prepare()
    done, files = threading.Event(), BatchFiles(Disk(), layout.parents)

    def sweep() -> None:
        while not done.is_set():
            layout.bury_finished(layout.finished("alice", CorrelationId.make(NOW_MS)))

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for _ in range(MOVES):
            batch = CorrelationId.make(NOW_MS)
            os.mkdir(layout.active(batch))
            files.move(layout.active(batch), layout.finished("alice", batch))
            layout.discard(layout.finished("alice", batch))
    finally:
        done.set()
        thread.join()
    assert not os.listdir(layout.active_root)


def test_a_folder_that_cannot_be_moved_is_an_error_and_stays(tmp_path: Path) -> None:
    files = BatchFiles(Disk(), threading.Lock())
    (tmp_path / "batch").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.move(str(tmp_path / "batch"), str(tmp_path / "file" / "batch"))
    assert (tmp_path / "batch").is_dir()
    with pytest.raises(FileNotFoundError):
        files.move(str(tmp_path / "gone"), str(tmp_path / "a" / "gone"))

"""Accepting, querying and following a batch cost the same with one stored batch or many, and a restart reads only
unfinished ones, and those that finished since the last checkpoint. What is opened is counted by the kernel
(inotify(7))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

from jobworker.v1 import query_pb2
from tests.harness.service import Api, Service
from tests.harness.wait import until

STORED = 40


class Opens:
    """Folders and files below a root that are opened from now on."""

    def __init__(self, root: Path) -> None:
        self._inotify = INotify(nonblocking=True)
        self._paths = {}
        for folder, _, _ in os.walk(root):
            self._paths[self._inotify.add_watch(folder, flags.OPEN)] = folder
        self._inotify.read(timeout=0)  # the walk's own

    def seen(self) -> list[str]:
        return [f"{self._paths[e.wd]}/{e.name}" for e in self._inotify.read(timeout=0)]

    def close(self) -> None:
        self._inotify.close()


@pytest.fixture
def stored(service: Service) -> Iterator[tuple[Service, Api, list[str], Opens]]:
    api = service.api()
    names = [api.submit(f"echo {i}") for i in range(STORED)]
    for name in names:
        api.wait(name)
    until(lambda: not any((service.data / "active").iterdir()), "all are stored")
    # The commit log still has what was recorded last, four MiB at the most; a start leaves nothing of it.
    service.kill_server()
    service.ready()
    opens = Opens(service.data / "batches")
    yield service, api, names, opens
    opens.close()


def test_a_restart_opens_nothing_of_what_is_finished(stored: tuple[Service, Api, list[str], Opens]) -> None:
    service, _, _, opens = stored
    service.kill_server()
    service.ready()
    api = service.api()
    assert api.wait(api.submit("true")).counts.succeeded == 1
    assert opens.seen() == []


def test_a_query_opens_the_files_of_its_batch_alone(stored: tuple[Service, Api, list[str], Opens]) -> None:
    service, _, names, opens = stored
    service.kill_server()
    service.ready()
    api = service.api()
    name = names[STORED // 2]
    assert api.log(name) == f"echo {STORED // 2}\n".encode()[5:]
    api.get(name)
    assert api.jobs(name)[0].exit_code == 0
    touched = opens.seen()
    assert touched
    assert [path for path in touched if name not in path] == []


def test_a_page_of_a_listing_opens_only_what_it_shows(stored: tuple[Service, Api, list[str], Opens]) -> None:
    service, _, names, opens = stored
    service.kill_server()
    service.ready()
    api = service.api()
    page = api.query.ListBatches(query_pb2.ListBatchesRequest(page_size=3), **api.call())
    assert [b.correlation_id for b in page.batches] == names[:-4:-1]
    files = [path for path in opens.seen() if path.endswith(".jsonl")]
    # The fourth is looked at to know that there is a next page.
    assert {Path(path).parent.name for path in files} <= set(names[-4:])


def test_finding_a_batch_by_the_beginning_of_its_id_opens_its_files_alone(
    stored: tuple[Service, Api, list[str], Opens],
) -> None:
    service, _, names, opens = stored
    service.kill_server()
    service.ready()
    api = service.api()
    request = query_pb2.ListBatchesRequest(id_prefix=names[STORED // 3][:-4])
    page = api.query.ListBatches(request, **api.call())
    assert [b.correlation_id for b in page.batches] == [names[STORED // 3]]
    files = [path for path in opens.seen() if path.endswith(".jsonl")]
    assert {Path(path).parent.name for path in files} == {names[STORED // 3]}


def test_a_listing_pages_through_all_without_leaving_out_or_repeating_any(
    stored: tuple[Service, Api, list[str], Opens],
) -> None:
    _, api, names, _ = stored
    seen: list[str] = []
    token = ""
    while True:
        page = api.query.ListBatches(query_pb2.ListBatchesRequest(page_size=7, page_token=token), **api.call())
        seen += [b.correlation_id for b in page.batches]
        token = page.next_page_token
        if not token:
            break
    assert seen == names[::-1]

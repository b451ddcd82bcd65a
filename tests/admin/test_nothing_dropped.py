"""No call is dropped, however the configuration changes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.harness.admin import Admin
from tests.harness.refusal import refused
from tests.harness.service import Api, Service
from tests.harness.wait import until

Write = Callable[[str], object]


def followed(api: Api, batch: str, chunks: list[bytes]) -> None:
    chunks.extend(chunk.data for chunk in api.follow(batch))


def calling(api: Api, failures: list[Exception], stop: threading.Event) -> Iterator[int]:
    """Calls again and again; how many there were."""
    while not stop.is_set():
        try:
            assert api.wait(api.submit("true")).counts.succeeded == 1
        except Exception as error:
            failures.append(error)
        yield 1


def test_no_call_is_dropped_while_the_configuration_changes_in_every_way(
    configured: Service, admin: Admin, config_file: Path, write: Write
) -> None:
    failures: list[Exception] = []
    stop = threading.Event()
    calls: list[int] = []
    long = configured.api("bob")
    batch = long.submit("for i in $(seq 100000); do echo $i; [ -e stop ] && exit; sleep 0.01; done")
    chunks: list[bytes] = []
    threads = [threading.Thread(target=followed, args=(long, batch, chunks))]
    apis = [configured.api(user) for user in ("alice", "bob")]
    threads += [threading.Thread(target=lambda api=api: calls.extend(calling(api, failures, stop))) for api in apis]
    for thread in threads:
        thread.start()
    for turn in range(8):
        running = 20 + turn
        write(f"[jobs]\nrunning = {running}\n")
        admin.took_over("jobs.running", running)
        write("[jobs\n")
        admin.refused_file("is not TOML")
        os.kill(configured.pid, signal.SIGHUP)
        refused(lambda: admin.update({"jobs": {"running": -1}}))
        admin.update({"jobs": {"linger_seconds": turn}})
    have = len(calls)
    until(lambda: len(calls) > have + 2, "calls go on")
    stop.set()
    long.cancel(batch)
    for thread in threads:
        thread.join()
    assert failures == []
    assert b"".join(chunks) == long.log(batch)
    assert "ended with" not in configured.output()

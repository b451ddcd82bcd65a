from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jobworker.server.store.journal import Journal, PoisonedError, SharedSync, ThreadSyncer


@pytest.fixture
def syncer():
    made = ThreadSyncer()
    yield made
    made.close()


async def durable(journal: Journal) -> None:
    done = asyncio.Event()
    journal.when_durable(done.set)
    await asyncio.wait_for(done.wait(), 30)


async def test_appended_lines_are_called_durable_after_a_sync(tmp_path: Path, syncer: ThreadSyncer) -> None:
    journal = Journal(str(tmp_path / "j"), syncer=syncer)
    assert journal.append(b"one\n") == 0
    assert journal.append(b"two\n") == 4
    await durable(journal)
    journal.close()
    assert (tmp_path / "j").read_bytes() == b"one\ntwo\n"


async def test_a_journal_opened_again_goes_on_at_its_end(tmp_path: Path, syncer: ThreadSyncer) -> None:
    (tmp_path / "j").write_bytes(b"old\n")
    journal = Journal(str(tmp_path / "j"), syncer=syncer)
    assert journal.append(b"new\n") == 4
    journal.close()
    assert (tmp_path / "j").read_bytes() == b"old\nnew\n"


class FailingSyncer:
    """The real one, whose next syncs fail as a broken disk's do."""

    def __init__(self, real: ThreadSyncer) -> None:
        self.real = real
        self.broken = False
        self.calls = 0

    def run(self, work: Callable[[], None]) -> asyncio.Future[None]:
        self.calls += 1

        def broken() -> None:
            raise OSError(5, "Input/output error")

        return self.real.run(broken if self.broken else work)


async def test_a_failed_sync_poisons_the_file_and_nobody_hears_durable(tmp_path: Path, syncer: ThreadSyncer) -> None:
    failing = FailingSyncer(syncer)
    journal = Journal(str(tmp_path / "j"), syncer=failing)
    journal.append(b"kept\n")
    await durable(journal)
    failing.broken = True
    called: list[int] = []
    journal.append(b"doubtful\n")
    journal.when_durable(lambda: called.append(1))
    while journal.poison is None:
        await asyncio.sleep(0.001)
    failing.broken = False
    with pytest.raises(PoisonedError):
        journal.append(b"more\n")
    assert called == []


async def test_many_who_wait_share_few_syncs(tmp_path: Path, syncer: ThreadSyncer) -> None:
    counting = FailingSyncer(syncer)
    journal = Journal(str(tmp_path / "j"), syncer=counting)
    waits = []
    for i in range(500):
        journal.append(b"%d\n" % i)
        waits.append(durable(journal))
    await asyncio.gather(*waits)
    assert counting.calls <= 3
    journal.close()


async def test_a_partly_written_line_is_cut_off_again(tmp_path: Path, syncer: ThreadSyncer) -> None:
    journal = Journal(str(tmp_path / "j"), syncer=syncer)
    journal.append(b"whole\n")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        with pytest.raises(OSError):
            journal.append(b"too long for the limit\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    journal.append(b"next\n")
    journal.close()
    assert (tmp_path / "j").read_bytes() == b"whole\nnext\n"


async def test_who_asks_during_a_shared_sync_gets_one_that_began_after_the_question(syncer: ThreadSyncer) -> None:
    began: list[int] = []
    shared = SharedSync(syncer=syncer, work=lambda: began.append(len(began)))
    await asyncio.gather(*(shared.sync() for _ in range(50)))
    assert len(began) == 2
    await shared.sync()
    assert len(began) == 3


async def test_a_shared_sync_that_fails_fails_for_all_who_waited_and_can_be_asked_again(syncer: ThreadSyncer) -> None:
    fail = [True]

    def work() -> None:
        if fail[0]:
            raise OSError(5, os.strerror(5))

    shared = SharedSync(syncer=syncer, work=work)
    outcomes = await asyncio.gather(*(shared.sync() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(o, OSError) for o in outcomes)
    fail[0] = False
    await shared.sync()

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from jobworker.server.store.syncer import SharedSync, ThreadSyncer


@pytest.fixture
def syncer() -> Iterator[ThreadSyncer]:
    made = ThreadSyncer()
    yield made
    made.close()


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

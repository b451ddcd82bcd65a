"""Connections that are reset in the middle of submissions, answers and streams, by a proxy between the clients and the
service. Nothing may be LOST."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.trial import Trial
from tests.harness.proxy import Proxy


def cut(trial: Trial) -> None:
    """Each fault resets whatever connection passes its next piece."""
    wanted = threading.Semaphore(0)
    with trial.service(), _proxy(trial.rig.service.port, lambda: wanted.acquire(blocking=False)) as port:
        trial.load.port = port
        for faults in trial.rounds(20):
            for _ in faults:
                trial.pause(0.05, 0.4)
                # One alone, or all that there are.
                for _ in range(trial.dice.choice((1, 1, 1, 8))):
                    wanted.release()


@contextmanager
def _proxy(port: int, is_wanted: Callable[[], bool]) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy")
    thread.start()
    dice = random.Random(port)
    # Not always at once, so that big pieces are cut in their middle too.
    proxy = Proxy(port, lambda _there, _back: dice.random() < 0.3 and is_wanted())
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result()
        yield int(proxy.address.rpartition(":")[2])
    finally:
        asyncio.run_coroutine_threadsafe(_end(proxy), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(proxy: Proxy) -> None:
    await proxy.__aexit__()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)

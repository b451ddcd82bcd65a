"""Checks passwords: Argon2id in a few threads with a bounded queue, so that logins starve no other call."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from jobpki.users import password_matches
from jobworker.server.errors import ExhaustedError

# A check takes some 0.15 s and 64 MiB: two at a time keep both small, and a full queue waits about a second.
_THREADS = 2
_WAITING_MAX = 16
_CHECK_SECONDS = 0.15


class PasswordChecker:
    """A pool of its own. `close` ends it; checks that run are waited for."""

    def __init__(self, *, threads: int = _THREADS, waiting_max: int = _WAITING_MAX) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="password")
        self._places = threading.BoundedSemaphore(threads + waiting_max)
        self._retry_after_seconds = max(1.0, waiting_max * _CHECK_SECONDS / threads)

    async def matches(self, password: str, password_hash: str) -> bool:
        """Whether the password has this hash.

        Raises:
            ExhaustedError: too many are being checked.
        """
        if not self._places.acquire(blocking=False):
            raise ExhaustedError(
                "too many logins are being checked", subject="service", retry_after_seconds=self._retry_after_seconds
            )
        try:
            work = self._pool.submit(password_matches, password, password_hash)
        except RuntimeError:  # the pool is closed
            self._places.release()
            raise
        # Not when the caller stops waiting: a check that runs goes on, and takes its place until it is done.
        work.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Ends the threads; what only waits is cancelled."""
        self._pool.shutdown(wait=True, cancel_futures=True)

"""Put on PYTHONPATH, it has a server time each slice of work on its event loop: how long a callback, or a task from one
await to the next, held the loop. Slices longer than 10 ms become lines of the file that JOBWORKER_TEST_SLICES names.

The loop is asyncio's own here, in the place of uvloop's: its callbacks can be timed one by one, and run the same code.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import traceback
import types
from typing import Any

LEAST_SECONDS = 0.01
_LOOK_SECONDS = 0.005


class Watch:
    """Times callbacks on one thread; another notes what a long one is just doing."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - as long as the process
        self._began = 0.0
        self._thread = threading.get_ident()
        self._stack = ""
        threading.Thread(target=self._look, name="slices", daemon=True).start()

    def run(self, handle: Any, run: Any) -> None:
        """Runs a callback."""
        self._stack = ""
        self._thread = threading.get_ident()
        began, worked = time.perf_counter(), time.thread_time()
        self._began = began
        try:
            run(handle)
        finally:
            self._began = 0.0
            worked = time.thread_time() - worked
            took = time.perf_counter() - began
            if took >= LEAST_SECONDS:
                line = {"seconds": took, "cpu_seconds": worked, "what": repr(handle)[:300], "stack": self._stack}
                self._file.write(json.dumps(line) + "\n")

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            began = self._began
            if began and time.perf_counter() - began > LEAST_SECONDS:
                frame = sys._current_frames().get(self._thread)
                stack = traceback.extract_stack(frame)[-6:]
                if self._began == began:
                    self._stack = " > ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in stack)


def _install(path: str) -> None:
    watch = Watch(path)
    run = asyncio.Handle._run

    def timed(self: asyncio.Handle) -> None:
        watch.run(self, run)

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    fake = types.ModuleType("uvloop")
    fake.run = asyncio.run  # type: ignore[attr-defined]
    fake.Loop = asyncio.SelectorEventLoop  # type: ignore[attr-defined]
    sys.modules["uvloop"] = fake


_path = os.environ.get("JOBWORKER_TEST_SLICES")
if _path and "server" in sys.orig_argv:
    _install(_path)

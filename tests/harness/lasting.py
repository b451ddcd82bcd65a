"""Calls that last, in threads of their own, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

from tests.harness.refusal import Refusal, refusal
from tests.harness.service import CALL_SECONDS, Api
from tests.harness.wait import until


class Lasting:
    """A call that lasts, in a thread: what came of it, and how it ended."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.pieces: list[Any] = []
        self.ended_by: Refusal | None = None
        self._thread = threading.Thread(target=self._run, args=(make,), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Any]) -> None:
        try:
            answer = make()
            for piece in answer if hasattr(answer, "__iter__") else [answer]:
                self.pieces.append(piece)
        except grpc.RpcError as error:
            self.ended_by = refusal(error)

    def join(self) -> None:
        """Waits for its end."""
        self._thread.join(CALL_SECONDS)
        assert not self._thread.is_alive()

    def refusal(self) -> Refusal:
        """Waits until the service ends it; how."""
        self.join()
        assert self.ended_by is not None
        return self.ended_by

    @property
    def log(self) -> bytes:
        """Of a follower: the bytes, each once and in order."""
        data = bytearray()
        for chunk in self.pieces:
            assert not chunk.data or chunk.offset == len(data)
            data += chunk.data
        return bytes(data)


def follower(api: Api, batch: str) -> Lasting:
    """Follows the first job's log, and has its beginning."""
    found = Lasting(lambda: api.follow(batch, job_index=[0]))
    until(lambda: found.pieces or found.ended_by, "the log's beginning")
    return found

"""The orders that were sent, or are about to be, and have not ended: by job id. It tells when there is none left."""

from __future__ import annotations

import asyncio
from typing import TypeVar

_T = TypeVar("_T")


class Orders(dict[str, _T]):
    """A dict; `del` and `pop` are the ways out of it."""

    def __init__(self) -> None:
        super().__init__()
        self._emptied = asyncio.Event()

    def __delitem__(self, job_id: str) -> None:
        super().__delitem__(job_id)
        if not self:
            self._emptied.set()

    def pop(self, job_id: str, default: _T | None = None) -> _T | None:  # type: ignore[override]
        """The order, which is in it no more; one that is not there is none."""
        found = super().pop(job_id, default)
        if not self:
            self._emptied.set()
        return found

    async def idle(self) -> None:
        """Until there is none."""
        while self:
            self._emptied.clear()
            await self._emptied.wait()

"""What each measure is given: a folder of its own, services in it, and whether it is to be quick."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.service import Service, running


@dataclass(frozen=True)
class Run:
    """One measure's."""

    folder: Path
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """How much of it."""
        return quick if self.quick else full

    @staticmethod
    def say(text: str) -> None:
        """How far it is."""
        print(f"  {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def service(
        self, name: str = "service", variables: Mapping[str, str] | None = None, **settings: str
    ) -> Iterator[Service]:
        """The whole service in a folder of that name."""
        with running(self.folder / name, variables, **settings) as service:
            yield service

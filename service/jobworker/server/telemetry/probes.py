"""Whether this process lives, and whether it is ready for calls, for whoever starts it again or sends calls to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """`checks` must all hold for calls to come. `service` is told beside them: a service that an administrator stopped
    takes no batches and is ready all the same, since queries and AdminService, which starts it again, go on."""

    checks: Mapping[str, Callable[[], bool]]
    service: Callable[[], str]

    def ready(self) -> tuple[bool, bytes]:
        """Whether it is, and a JSON object that says of each check how it is."""
        found = {name: check() for name, check in self.checks.items()}
        ready = all(found.values())
        answer = {"ready": ready, "checks": found, "service": self.service()}
        return ready, json.dumps(answer).encode() + b"\n"

"""`make fuzz`: each reader, and the ports of a service, with other bytes each time; what broke one is printed, to
be kept as a test."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.bytes import anything
from tests.fuzz.ports import ports, spoiled
from tests.fuzz.targets import TARGETS, Target, run
from tests.harness.service import running

PORTS = "the ports of a service"
_ROUND = 2000  # examples between two looks at the clock


def main() -> int:
    """The exit status: 1 where something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="for each reader, and for all ports (default: 30)")
    parser.add_argument("--only", metavar="TEXT", default="", help="readers whose name holds it")
    parser.add_argument("--seed", type=int, help="of the first round (default: the clock's)")
    options = parser.parse_args()
    broken = 0
    for name, target in TARGETS.items():
        if options.only in name:
            first = time.time_ns() if options.seed is None else options.seed
            examples, error = _fuzz(target, options.seconds, first)
            print(f"{name}: {examples:,} inputs, {'broken' if error else 'nothing broke'} (seed {first})", flush=True)
            if error:
                broken += 1
                print(error, flush=True)
    if options.only in PORTS:
        first = time.time_ns() if options.seed is None else options.seed
        error = _storm(options.seconds, first)
        print(f"{PORTS}: {error or 'nothing broke'} (seed {first})", flush=True)
        broken += bool(error)
    return 1 if broken else 0


def _storm(seconds: float, first: int) -> str:
    """On a service of its own; what broke, or empty."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "service") as service:
        alice = service.api("alice")
        every = list(ports(service, alice))
        for number, port in enumerate(every):
            chance = random.Random(first + number)
            ends_at = time.monotonic() + seconds / len(every)
            try:
                while time.monotonic() < ends_at:
                    port.send(spoiled(chance, port.seeds))
                assert alice.log(alice.submit("echo whole")) == b"whole\n", port.name
            except Exception:
                return f"{port.name}\n{traceback.format_exc(limit=-12)}\n{service.output()}"
    return ""


def _fuzz(target: Target, seconds: float, first: int) -> tuple[int, str]:
    ends_at, examples = time.monotonic() + seconds, 0
    seeds = list(target.seeds())
    while time.monotonic() < ends_at:

        @seed(first + examples)
        @settings(max_examples=_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck),
                  phases=[Phase.generate, Phase.shrink], print_blob=False)  # fmt: skip
        @given(data=anything(seeds))
        def once(data: bytes) -> None:
            run(target, data)

        try:
            once()
        except Exception:
            return examples, traceback.format_exc(limit=-12)
        examples += _ROUND
    return examples, ""


if __name__ == "__main__":
    sys.exit(main())

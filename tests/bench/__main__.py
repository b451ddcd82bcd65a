"""`python -m tests.bench [throughput|stream|memory|latency|telemetry]...`: all of them without arguments."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import latency, memory, stream, telemetry, throughput
from tests.harness.service import running

BENCHES = {
    "throughput": throughput.measure,
    "stream": lambda _folder, service: stream.measure(service),
    "memory": lambda _folder, service: memory.measure(service),
    "latency": lambda _folder, service: latency.measure(service),
    "telemetry": lambda folder, _service: telemetry.measure(folder),
}


def main(names: list[str]) -> int:
    """Runs the benches of these names."""
    if unknown := [n for n in names if n not in BENCHES]:
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-") as folder:
        for name in names or BENCHES:
            place = Path(folder) / name
            place.mkdir()
            with running(place / "service") as service:
                BENCHES[name](place, service)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

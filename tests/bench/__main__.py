"""`python -m tests.bench`: each figure beside its floor, which is measured in the same run, since machines are noisy.

The rows go to standard output, how far it is to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import batch, idle, latency, memory, others, slices, spawning, stored, stream, telemetry, unary
from tests.bench.row import Row
from tests.bench.run import Run

# In this order: those that leave many files behind come last.
MEASURES: dict[str, Callable[[Run], Iterator[Row]]] = {
    module.__name__.rpartition(".")[2]: module.measure
    for module in (unary, latency, others, idle, stream, spawning, batch, telemetry, memory, stored, slices)
}
NAMED_ONLY = {"slices"}  # attacks, not use: half an hour


def measured(names: list[str], *, quick: bool, json_file: Path | None = None, folder_in: Path | None = None) -> bool:
    """Prints the rows of these measures, one after another; False: not all of them came to an end."""
    rows: list[dict[str, object]] = []
    whole = True
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-", dir=folder_in) as folder:
        for name in names:
            print(f"{name}:", flush=True)
            began = time.perf_counter()
            own = Path(folder) / name
            own.mkdir()
            try:
                for row in MEASURES[name](Run(own, quick=quick)):
                    print(f"  {row.text()}", flush=True)
                    rows.append({"measure": name, **row.json()})
            except Exception:  # the others are measured all the same
                traceback.print_exc()
                print(f"  {name} was not measured whole", flush=True)
                whole = False
            Run.say(f"took {time.perf_counter() - began:.0f} s")
    if json_file is not None:
        found = {"quick": quick, "processors": os.cpu_count(), "kernel": os.uname().release, "rows": rows}
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    return whole


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures the service.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MEASURES, help="these measures alone")
    parser.add_argument("--list", action="store_true", help="what can be measured")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it: the figures say little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the rows as JSON as well")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where services have their data; in /dev/shm the disk counts nothing"
    )
    given = parser.parse_args()
    if given.list:
        for name, measure in MEASURES.items():
            text = " ".join((sys.modules[measure.__module__].__doc__ or "").split())
            print(f"{name}{' (with --only)' if name in NAMED_ONLY else ''}: {text}")
        return 0
    # As Ctrl-C does: services are stopped, folders removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = given.only or [name for name in MEASURES if name not in NAMED_ONLY]
    return 0 if measured(names, quick=given.quick, json_file=given.json, folder_in=given.folder) else 1


if __name__ == "__main__":
    sys.exit(main())

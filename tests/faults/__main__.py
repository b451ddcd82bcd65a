"""`python -m tests.faults`: the real service under load, faults, and an oracle outside it. Exit status 1: there were
violations, or a fault that the machine can have was not tried. What it cannot have is told at the end. See `--help`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults import disk
from tests.faults.report import Report, Row
from tests.faults.table import FAULTS, SHORT_SECONDS, Fault
from tests.faults.trial import Bounds, Trial


def arguments(words: list[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=FAULTS, metavar="FAULT", help=f"of {', '.join(FAULTS)}; repeatable"
    )
    parser.add_argument("--count", type=int, help="so many of each, instead of the table's numbers")
    parser.add_argument(
        "--seconds", type=float, help="for all of it: no fault is begun later, and each kind has its share"
    )
    parser.add_argument("--short", action="store_true", help=f"small numbers, {SHORT_SECONDS:.0f} seconds")
    parser.add_argument(
        "--seed", help="that an earlier run printed: the same faults, batches and jobs, not the same moments"
    )
    parser.add_argument("--patience", type=float, default=600.0, help="seconds in which all jobs must become final")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a trial that had violations")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Runs the trials one after another."""
    asked = arguments(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was mounted and started is ended
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.geteuid() == 0:
        disk.own_mounts()
    seed = asked.seed or f"{random.SystemRandom().getrandbits(32):08x}"
    report = Report()
    report.say(f"seed {seed}")
    seconds = asked.seconds or (SHORT_SECONDS if asked.short else float("inf"))
    end = time.monotonic() + seconds
    names = asked.only or list(FAULTS)
    interrupted = False
    try:
        for number, name in enumerate(names):
            share = (end - time.monotonic()) / (len(names) - number)
            count = asked.count or (FAULTS[name].short if asked.short else FAULTS[name].count)
            bounds = Bounds(count, time.monotonic() + share, asked.patience, seed)
            run(name, FAULTS[name], bounds, report, keep=asked.keep)
    except KeyboardInterrupt:
        interrupted = True
    print(report.table())
    print(f"seed {seed}")
    return 130 if interrupted else int(not report.good)


def run(name: str, fault: Fault, bounds: Bounds, report: Report, *, keep: bool) -> None:
    """One fault's trial."""
    row = Row(name, fault.what, bounds.count)
    report.rows.append(row)
    row.skipped = fault.cannot()
    report.say(f"{name}: {f'skipped: {row.skipped}' if row.skipped else f'{bounds.count} x {fault.what}'}")
    if row.skipped:
        return
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"jobworker-faults-{name}-"))
    trial = Trial(name, folder, bounds, report.say, **fault.settings)
    try:
        trial.run(fault.scenario)
    except Exception as error:  # the other faults have their turns all the same
        traceback.print_exc()
        row.failure = repr(error)
    finally:
        row.count, row.note, row.idle_rounds = trial.done, trial.gave_up, trial.idle_rounds
        row.seconds = time.monotonic() - began
        row.add(trial.history)
        if keep and row.violations:
            report.say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Few descriptors: the limit of a living process is lowered to what it has open, and a few more, for a while. Nothing
may be LOST, and no job may fail for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.faults.trial import Trial


def few(trial: Trial) -> None:
    """Of the server, or of the process that holds the jobs."""
    with trial.service():
        for faults in trial.rounds(5):
            for _ in faults:
                trial.pause(0.2, 1.0)
                pid = trial.rig.pid(trial.dice.choice(("server", "inner")))
                before = _limit(pid)
                _set_limit(pid, len(os.listdir(f"/proc/{pid}/fd")) + trial.dice.randrange(6))
                try:
                    trial.pause(0.3, 3.0)
                finally:
                    _set_limit(pid, before)


def _limit(pid: int) -> int:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))


def _set_limit(pid: int, descriptors: int) -> None:
    """As the process's own user: root without CAP_SYS_RESOURCE may not do it to others' (prlimit(2))."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    command = ["prlimit", f"--pid={pid}", f"--nofile={descriptors}:"]
    if os.geteuid() == 0:
        user, group = status["Uid"].split()[0], status["Gid"].split()[0]
        command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *command]
    subprocess.run(command, check=True, capture_output=True)

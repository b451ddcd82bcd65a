"""Few descriptors: the limit of a living process is lowered to what it has open, and a few more, for a while. Nothing
may be LOST, and no job may fail for it."""

from __future__ import annotations

import os
import resource

from tests.faults.trial import Trial


def few(trial: Trial) -> None:
    """Of the server, or of the process that holds the jobs."""
    with trial.service():
        for faults in trial.rounds(5):
            for _ in faults:
                trial.pause(0.2, 1.0)
                pid = trial.rig.pid(trial.dice.choice(("server", "inner")))
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                few_more = len(os.listdir(f"/proc/{pid}/fd")) + trial.dice.randrange(6)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (few_more, before[1]))
                try:
                    trial.pause(0.3, 3.0)
                finally:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

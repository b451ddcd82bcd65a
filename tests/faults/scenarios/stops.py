"""SIGSTOP: processes that hang for a while, and go on as if nothing had been. Nothing may be LOST."""

from __future__ import annotations

from tests.faults.trial import Trial

_PROCESSES = ("server", "server", "executor", "inner", "inner", "supervisor", "all")


def stop(trial: Trial) -> None:
    """One process, or all of them."""
    with trial.service():
        for faults in trial.rounds(5):
            for _ in faults:
                trial.pause(0.2, 1.0)
                trial.rig.pause(trial.dice.choice(_PROCESSES))
                trial.pause(0.1, 3.0)
                trial.rig.resume()

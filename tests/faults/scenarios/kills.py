"""kill -9 of each process of the service, and of all."""

from __future__ import annotations

from tests.faults.trial import Trial


def server(trial: Trial) -> None:
    """Jobs must not notice, nor may anything be LOST."""
    with trial.service():
        for faults in trial.rounds(10):
            for _ in faults:
                trial.pause()
                trial.rig.kill_server()
                # Now and then the next one dies as it starts.
                if trial.dice.random() < 0.8:
                    trial.rig.ready()


def executor(trial: Trial) -> None:
    """Its jobs die with it, and no other."""
    with trial.service():
        for faults in trial.rounds(5):
            for _ in faults:
                trial.pause(0.3, 2.0)
                trial.rig.kill_executor(inner=trial.dice.random() < 0.6)


def supervisor(trial: Trial) -> None:
    """The others go with it, in order; the next life takes over what was left."""
    with trial.service():
        for faults in trial.rounds(4):
            for _ in faults:
                trial.pause(0.3, 2.0)
                trial.rig.kill_supervisor()
                trial.rig.start()


def everything(trial: Trial) -> None:
    """As the kernel's out-of-memory killer, or a container's end."""
    with trial.service():
        for faults in trial.rounds(4):
            for _ in faults:
                trial.pause(0.3, 2.0)
                trial.rig.kill_all()
                trial.rig.start()

"""The data disk fails under the living service: every access is EIO, for good. Somebody ends the service, mounts the
disk again, and starts it anew, on the same life of the machine. What was not synced is gone: of what clients were told,
nothing may be."""

from __future__ import annotations

import time

from tests.faults.disk import Disk
from tests.faults.history import Death, Died
from tests.faults.trial import Trial


def disk(trial: Trial) -> None:
    """The whole disk."""
    service = trial.rig.service
    failing = Disk(service.data, service.folder.with_name("eio.img"))
    try:
        failing.make()
        with trial.service():
            for faults in trial.rounds(1):
                for _ in faults:
                    trial.pause(0.3, 2.0)
                    # For the logs the same as if the machine had died: their last bytes are gone.
                    died = Died(Death.MACHINE, time.monotonic())
                    trial.history.deaths.append(died)
                    # Stopped meanwhile: of a synced write that is under way when ext4 is shut down Linux says now and
                    # then that it is durable, and it is not (6.18: 3 of 80 times, in a program that does only that).
                    trial.rig.pause("server")
                    failing.cut()
                    trial.rig.resume()
                    trial.pause(0.3, 3.0)
                    trial.rig.stop()
                    died.gone = died.ended = time.monotonic()
                    failing.unmount()
                    failing.mount()
                    trial.rig.start()
    finally:
        failing.close()

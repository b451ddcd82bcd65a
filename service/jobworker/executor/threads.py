"""What holds for every thread of the executor."""

import os
import traceback
from typing import Callable

_SOFTWARE_ERROR = 70  # EX_SOFTWARE, sysexits(3)


def or_die(work: Callable[[], None]) -> None:
    """Better dead than half alive: jobs must never be stuck on a thread that is gone."""
    try:
        work()
    except BaseException:
        try:
            traceback.print_exc()
        finally:
            os._exit(_SOFTWARE_ERROR)

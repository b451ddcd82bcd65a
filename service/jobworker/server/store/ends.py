"""How the jobs of a finished batch ended, read once from its folder without an index of them: a bounded selection and
the counts. For any thread but the event loop's: it rests."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING

from jobworker.server.errors import UNREADABLE
from jobworker.server.model import JobState
from jobworker.server.slices import with_rests
from jobworker.server.store import results
from jobworker.server.store.layout import BATCH, RESULTS
from jobworker.server.telemetry.records import Ends

if TYPE_CHECKING:
    from jobworker.server.model import JobEnd

_FAILED = {int(state) for state in (JobState.FAILED, JobState.TIMED_OUT, JobState.LOST)}
_SKIP_PREFIX = b'{"k":"skip"'


def read_ends(folder: str, most: int) -> Ends:
    """The ends of the first `most` jobs, and of as many more that failed; by index.

    Raises:
        OSError: the files are not there, or cannot be read.
    """
    counts: Counter[JobState] = Counter()
    jobs: dict[int, JobEnd] = {}
    failed_more = 0
    prefix = len(results.END_PREFIX)
    with open(f"{folder}/{RESULTS}", "rb") as file:
        for line in with_rests(file):
            try:
                # Job and state are read without parsing the line, of which most are only counted.
                if line.startswith(results.END_PREFIX):
                    comma = line.index(b",", prefix)
                    job, state = int(line[prefix:comma]), int(line[comma + 9 : line.index(b",", comma + 9)])
                    counts[JobState(state)] += 1
                    wanted = job < most
                    if not wanted and state in _FAILED and failed_more < most:
                        failed_more += 1
                        wanted = True
                    if wanted:
                        jobs[job] = results.decode_end(json.loads(line))
                elif line.startswith(_SKIP_PREFIX):
                    d = json.loads(line)
                    counts[JobState(d["state"])] += d["to"] - d["from"]
                    for job in range(d["from"], min(d["to"], most)):
                        jobs[job] = results.skip_end(d, 0)
            except UNREADABLE:
                continue  # set aside and reported by those who need the line
    return Ends(counts, sorted(jobs.items()), os.stat(f"{folder}/{BATCH}").st_mtime_ns)

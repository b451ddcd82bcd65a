"""What `results.jsonl` tells: a line per change of a job, as it happened. Of a large batch some jobs are told, the
others counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobworker.ctl.trace.lines import parsed, whole_lines
from jobworker.ctl.trace.moments import Damage, Moment, Stored
from jobworker.v1.job_pb2 import EndReason, JobState

RESULTS = "results.jsonl"
_FAILED = {JobState.JOB_STATE_FAILED, JobState.JOB_STATE_TIMED_OUT, JobState.JOB_STATE_LOST}


class Results:
    """Reads them into `stored`: the first `most_jobs` and as many more that failed, or (None) all."""

    def __init__(self, stored: Stored, most_jobs: int | None, damage: Damage) -> None:
        self._stored = stored
        self._most_jobs = most_jobs
        self._damage = damage
        self._ordered = False
        self._failed_more = 0
        self._ended: set[int] = set()
        self._told: set[int] = set()
        self._starts: dict[int, Moment] = {}
        self._takes = {
            "order": self._order,
            "start": self._start,
            "end": self._end,
            "skip": self._skip,
            "final": self._final,
        }

    def read(self) -> None:
        """All lines; what is not a result is noted and passed over."""
        for number, line in whole_lines(self._stored.folder / RESULTS, self._damage):
            source = f"{RESULTS}:{number}"
            d = parsed(line, source, self._damage)
            try:
                if d is not None and d["k"] in self._takes:
                    self._takes[d["k"]](d, source)
            except (KeyError, TypeError, ValueError, AttributeError):
                self._damage.note(source)
        most = self._most_jobs
        running = [i for i in self._starts if i not in self._ended]
        self._stored.moments += [self._starts[i] for i in running if most is None or i < most]
        self._stored.left_out = len(self._ended - self._told) + sum(most is not None and i >= most for i in running)
        if not self._stored.state:
            self._stored.state = "RUNNING" if self._ordered else "QUEUED"

    def _order(self, d: dict[str, Any], source: str) -> None:
        if self._ordered and self._most_jobs is not None:
            return
        event = "ordered" if self._ordered else "first order"
        self._ordered = True
        jobs = d["jobs"]
        words = f"jobs {_some(jobs)} to executor {d['epoch']}"
        fields = {"job_indexes": jobs, "epoch": d["epoch"]}
        self._stored.moments.append(Moment(d["at"], event, words, source, fields=fields))

    def _start(self, d: dict[str, Any], source: str) -> None:
        self._starts[d["job"]] = Moment(d["at"], "job started", "", source, d["job"])

    def _end(self, d: dict[str, Any], source: str) -> None:
        index, state, most = d["job"], d["state"], self._most_jobs
        self._count(state, 1)
        self._ended.add(index)
        start = self._starts.pop(index, None)
        if most is not None and index >= most:
            if state not in _FAILED or self._failed_more >= most:
                return
            self._failed_more += 1
        self._told.add(index)
        self._stored.moments += _of_end(d, index, start, source)

    def _skip(self, d: dict[str, Any], source: str) -> None:
        begin, stop = d["from"], d["to"]
        self._count(d["state"], stop - begin)
        self._ended.update(range(begin, stop))
        self._told.update(range(begin, stop))
        words = f"{begin} to {stop - 1}: {_name(JobState, d['state'])} ({_reason(d['reason'])})"
        fields = {"from": begin, "to": stop - 1, "reason": _reason(d["reason"])}
        self._stored.moments.append(Moment(d["at"], "jobs skipped", words, source, fields=fields))

    def _final(self, d: dict[str, Any], source: str) -> None:
        counts = {_name(JobState, int(state)): n for state, n in d["counts"].items()}
        self._stored.counts, self._stored.state = counts, _batch_state(counts)
        if isinstance(d.get("ended"), int):
            shown = ", ".join(f"{n} {state.lower().replace('_', ' ')}" for state, n in counts.items())
            fields = {"state": self._stored.state, **counts}
            words = f"{self._stored.state}: {shown}"
            self._stored.moments.append(Moment(d["ended"], "finished", words, source, fields=fields))

    def _count(self, state: int, jobs: int) -> None:
        name = _name(JobState, state)
        self._stored.counts[name] = self._stored.counts.get(name, 0) + jobs


def _of_end(d: dict[str, Any], index: int, start: Moment | None, source: str) -> Iterator[Moment]:
    began = d.get("started")
    if isinstance(began, int):
        yield Moment(began, "job started", "", start.source if start else source, index)
    state, reason = _name(JobState, d["state"]), _reason(d["reason"])
    why = [] if reason in ("exited", "signalled") else [reason]
    why += [f"{word} {d[key]}" for key, word in (("code", "exit code"), ("signal", "signal")) if key in d]
    why += [str(d["detail"])] if d.get("detail") else []
    at = d.get("ended") or began
    if isinstance(at, int):
        fields = {"state": state, "reason": reason, "log_bytes": sum(d.get("logs", ()))}
        dropped = sum((*d.get("dropped_head", ()), *d.get("dropped_tail", ())))
        fields |= {"dropped_bytes": dropped} if dropped else {}
        fields |= {name: d[key] for key, name in (("code", "exit_code"), ("signal", "signal")) if key in d}
        if isinstance(began, int):
            fields["seconds"] = round((at - began) / 1e9, 6)
        yield Moment(at, "job ended", f"{state} ({'; '.join(why)})", source, index, fields)


def _batch_state(counts: dict[str, int]) -> str:
    if any(counts.get(state) for state in ("FAILED", "TIMED_OUT", "LOST")):
        return "FAILED"
    return "CANCELLED" if any(counts.get(state) for state in ("CANCELLED", "SKIPPED")) else "SUCCEEDED"


def _name(enum: Any, number: int) -> str:
    prefix = {"JobState": "JOB_STATE_", "EndReason": "END_REASON_"}[enum.DESCRIPTOR.name]
    try:
        name: str = enum.Name(number)
    except ValueError:  # of a newer version
        return str(number)
    return name.removeprefix(prefix)


def _reason(number: int) -> str:
    return _name(EndReason, number).lower().replace("_", " ")


def _some(jobs: list[int]) -> str:
    return ", ".join(map(str, jobs[:8])) + (f", ... ({len(jobs)})" if len(jobs) > 8 else "")

"""When the load is over: waits until every batch is final, reads all of it back, and has it judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from jobworker.v1 import query_pb2
from tests.faults.clients import Asker, connect, status
from tests.faults.follower import take
from tests.faults.history import Batch, History, Kind, Log, Shown, Submission, Violation
from tests.faults.jobs import Marks
from tests.faults.oracle import judge
from tests.harness.service import Api, Service

_READ_SECONDS = 300.0
_OLD_BATCHES = 40  # of earlier rounds, the newest: each is looked at again


class Settler:
    """Of one service."""

    def __init__(self, service: Service, history: History, *, marks: Path, patience_seconds: float) -> None:
        """`patience_seconds`: within them all must be final."""
        self._service = service
        self._history = history
        self._marks = marks
        self._patience = patience_seconds
        self._set_aside: set[str] = set()
        self._again: list[Batch] = []

    def settle(self, end_followers: Callable[[], None]) -> list[Violation]:
        """Returns the violations. `end_followers` is called once all is final that becomes so.

        Raises:
            grpc.RpcError: the service does not answer.
        """
        history = self._history
        api = connect(self._service)
        try:
            asker = Asker(api, history)
            deadline = time.monotonic() + self._patience
            self._find_unanswered(asker)
            fresh = [b for b in history.batches.values() if b.expected and not b.judged]
            for batch in fresh:
                self._wait(asker, batch, deadline)
            found = self._find_unanswered(asker)  # some of them may have been on their way in
            for batch in found:
                self._wait(asker, batch, deadline)
            fresh += found
            end_followers()
            self._read(api, asker, fresh)
        finally:
            api.close()
        history.marks = Marks.read(self._marks)
        violations = judge(history, [b.tag for b in history.batches.values() if not b.judged or b in self._again])
        violations += self._damaged([*fresh, *self._again])
        for batch in history.batches.values():
            batch.judged = batch.judged or batch.submission is not Submission.UNDER_WAY
        return violations

    def _wait(self, asker: Asker, batch: Batch, deadline: float) -> None:
        while batch.final_at is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if asker.wait(batch, max(1.0, left)) is None:
                if any(s.gone and s.tag == batch.tag for s in self._history.shown[-3:]):
                    return
                time.sleep(0.1)

    def _find_unanswered(self, asker: Asker) -> list[Batch]:
        """Batches whose client got no id, and that the service has all the same. What it lists and was refused, and
        what it does not list and was acknowledged, is noted."""
        history = self._history
        began = time.monotonic()
        listed = {answer.name: answer for answer in asker.listed(_READ_SECONDS)}
        now = time.monotonic()
        found = []
        for batch in list(history.batches.values()):
            answer = listed.get(batch.tag)
            if batch.expected and answer is None:
                history.show(Shown(batch.tag, began, now, "ListBatches", gone=True))
            elif batch.submission in (Submission.REFUSED, Submission.CUT) and answer is not None:
                history.show(Shown(batch.tag, began, now, "ListBatches", batch_state="listed"))
            elif batch.submission is Submission.UNKNOWN and answer is not None:
                batch.submission = Submission.ACKNOWLEDGED
                batch.correlation_id = answer.correlation_id
                batch.acknowledged_at = now
                batch.judged = False
                if answer.job_count != len(batch.jobs):
                    history.show(
                        Shown(batch.tag, began, now + 1e-6, f"ListBatches ({answer.job_count} jobs)", gone=True)
                    )
                found.append(batch)
        return found

    def _read(self, api: Api, asker: Asker, fresh: list[Batch]) -> None:
        old = [b for b in self._history.batches.values() if b.expected and b.judged][-_OLD_BATCHES:]
        self._again = old
        for batch in [*fresh, *old]:
            asker.batch(batch, _READ_SECONDS)
            asker.jobs(batch, _READ_SECONDS)
        # After the machine's death bytes of older logs may be gone that were there.
        crashed = [b for b in old if self._history.machine_died_since(b.acknowledged_at)]
        for batch in [*fresh, *crashed]:
            if batch.final_at is not None:
                self._history.readings[batch.tag] = self._logs(api, batch)

    def _logs(self, api: Api, batch: Batch) -> dict[int, Log]:
        logs: dict[int, Log] = {}
        request = query_pb2.StreamLogsRequest(correlation_id=batch.correlation_id)
        for _ in range(2):  # a connection of an earlier life may end under the first
            logs = {}
            try:
                for chunk in api.query.StreamLogs(request, **api.call(timeout=_READ_SECONDS)):
                    take(logs.setdefault(chunk.job_index, Log()), chunk)
                break
            except grpc.RpcError as error:
                self._history.failed("StreamLogs", status(error))
        return logs

    # -- the files themselves

    def _damaged(self, read: list[Batch]) -> Iterator[Violation]:
        data = self._service.data
        by_id = {b.correlation_id: b for b in read}
        for path in data.glob("batches/*/*/*/*/results.jsonl"):
            batch = by_id.get(path.parent.name)
            if batch is not None and (problem := undecodable(path.read_bytes())):
                yield Violation(Kind.DAMAGED_RESULTS, batch.tag, detail=f"{path}: {problem}")
        for path in (data / "damaged").glob("*"):
            if path.name not in self._set_aside:
                self._set_aside.add(path.name)
                yield Violation(Kind.DAMAGED_RESULTS, path.name, detail=f"set aside: {path}")


def undecodable(content: bytes) -> str:
    """What is wrong with lines of JSON; empty when nothing is."""
    for number, line in enumerate(content.splitlines(), 1):
        if b"\0" in line:
            return f"line {number} has {line.count(0)} NUL bytes"
        try:
            json.loads(line)
        except ValueError:
            return f"line {number}: {line[:60]!r}"
    return "" if not content or content.endswith(b"\n") else "its last line has no end"

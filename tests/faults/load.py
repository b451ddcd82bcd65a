"""Load, as clients make it: batches of 1, 20 and 500 jobs, followers, cancels, and questions all the time. Everything
that it does and sees goes into the history. It is bounded: so many unfinished jobs and followers, no more."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from jobworker.v1 import job_pb2, schedule_pb2
from tests.faults.clients import CALL_SECONDS, Asker, connect, status
from tests.faults.follower import Follower
from tests.faults.history import ALL, Batch, History, Submission
from tests.faults.jobs import SIZES, make_jobs
from tests.harness.service import Api, Service

MOST_UNFINISHED_JOBS = 600
MOST_FOLLOWERS = 6
_SUBMITTERS = 3
_MESSAGE_JOBS = 50
# By these the service itself says no: it has nothing of the batch, now and later.
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}


class Load:
    """`start`, then `stop`: the batches stay, and finish by themselves."""

    def __init__(self, service: Service, history: History, *, marks: os.PathLike[str], seed: str) -> None:
        self._service = service
        self._history = history
        self._marks = marks
        self._seed = seed
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._followers: dict[threading.Thread, Follower] = {}
        self._lock = threading.Lock()  # of the followers: every submitter starts some
        self._apis: list[Api] = []
        self._numbers = iter(range(1 << 30))
        self.port: int | None = None  # instead of the service's own: a proxy's

    def start(self) -> None:
        """Begins."""
        self._stopping.clear()
        self._follow_api = self._connect()
        workers: list[tuple[str, Callable[[Api, random.Random], None]]] = [
            ("asker", self._ask),
            ("cancel", self._cancel),
        ]
        workers += [(f"submit{n}", self._submit) for n in range(_SUBMITTERS)]
        for name, work in workers:
            api = self._connect()
            dice = random.Random(f"{self._seed}/{name}/{next(self._numbers)}")
            self._threads.append(threading.Thread(target=self._repeat, args=(work, api, dice), name=name))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submits, asks and cancels no more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._close_apis(but=self._follow_api)

    def end_followers(self, seconds: float) -> None:
        """Waits for them; who is not through by then hangs."""
        deadline = time.monotonic() + seconds
        for thread, follower in self._followers.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                follower.give_up()
                thread.join()
        self._followers.clear()
        self._close_apis()

    def close(self) -> None:
        """Ends everything."""
        self._stopping.set()
        for follower in list(self._followers.values()):
            follower.stop()
        self._close_apis()  # ends the calls that they wait for
        for thread in [*self._threads, *self._followers]:
            thread.join()
        self._followers.clear()
        self._threads.clear()

    def _close_apis(self, but: Api | None = None) -> None:
        for api in self._apis:
            if api is not but:
                api.close()
        self._apis = [api for api in self._apis if api is but]

    def _connect(self) -> Api:
        api = connect(self._service, port=self.port)
        self._apis.append(api)
        return api

    def _repeat(self, work: Callable[[Api, random.Random], None], api: Api, dice: random.Random) -> None:
        while not self._stopping.is_set():
            try:
                work(api, dice)
            except ValueError:  # gRPC's, of a call on a channel that was closed
                if not self._stopping.is_set():
                    raise
            self._stopping.wait(dice.uniform(0.02, 0.25))

    def _unfinished(self) -> list[Batch]:
        return [b for b in list(self._history.batches.values()) if b.expected and b.final_at is None]

    # -- submitting

    def _submit(self, api: Api, dice: random.Random) -> None:
        count = dice.choice(SIZES)
        with self._history.lock:
            open_batches = [b for b in self._history.batches.values() if b.submission is Submission.UNDER_WAY]
        if sum(len(b.jobs) for b in [*self._unfinished(), *open_batches]) + count > MOST_UNFINISHED_JOBS:
            return
        tag = f"{dice.getrandbits(48):012x}"
        jobs = make_jobs(tag, count, dice)
        batch = Batch(tag, jobs, parallelism=dice.choice((2, 4, 8)), submitted_at=time.monotonic())
        with self._history.lock:
            self._history.batches[tag] = batch
        if count > 1 and dice.random() < 0.05:
            self._cut_off(api, batch, dice)
        elif dice.random() < 0.5:
            self._send_until_answered(api, batch, dice)
        else:
            self._send_once(api, batch, single=count == 1 and dice.random() < 0.5, name="")
        if batch.expected and dice.random() < 0.4:
            self._follow(batch, slow=dice.random() < 0.3)

    def _requests(self, batch: Batch, jobs: int | None = None) -> Iterator[schedule_pb2.JobRequest]:
        options = job_pb2.BatchOptions(name=batch.tag, parallelism=batch.parallelism)
        marks = os.fspath(self._marks)
        requests = [schedule_pb2.JobRequest(command=spec.command(marks)) for spec in batch.jobs[:jobs]]
        for begin in range(0, len(requests), _MESSAGE_JOBS):
            message = schedule_pb2.JobRequest(jobs=requests[begin : begin + _MESSAGE_JOBS])
            if begin == 0:
                message.batch.CopyFrom(options)
            yield message

    def _send_once(self, api: Api, batch: Batch, *, single: bool, name: str) -> None:
        metadata = [("x-correlation-id", name)] if name else []
        call = api.call(timeout=CALL_SECONDS, metadata=metadata)
        try:
            if single:
                (message,) = self._requests(batch)
                request = message.jobs[0]
                request.batch.CopyFrom(message.batch)
                answer = api.schedule.ExecuteJob(request, **call)
            else:
                answer = api.schedule.ExecuteJobs(self._requests(batch), **call)
        except grpc.RpcError as error:
            self._history.failed("ExecuteJob" if single else "ExecuteJobs", status(error))
            refused = error.code() in _REFUSALS
            batch.submission = Submission.REFUSED if refused else Submission.UNKNOWN
            return
        batch.correlation_id = answer.correlation_id
        batch.acknowledged_at = time.monotonic()
        batch.submission = Submission.ACKNOWLEDGED

    def _send_until_answered(self, api: Api, batch: Batch, dice: random.Random) -> None:
        """With a name of the client's, and again when no answer came. Once a call got no answer, a refusal of a later
        one says nothing of it."""
        name = uuid7(dice)
        was_unknown = False
        while True:
            self._send_once(api, batch, single=len(batch.jobs) == 1, name=name)
            if batch.submission is Submission.UNKNOWN:
                was_unknown = True
            elif batch.submission is Submission.REFUSED and was_unknown:
                batch.submission = Submission.UNKNOWN
                return
            else:
                return
            if self._stopping.wait(0.1):
                return

    def _cut_off(self, api: Api, batch: Batch, dice: random.Random) -> None:
        """Sends a part, and hangs up."""
        sent = threading.Event()
        over = threading.Event()

        def part() -> Iterator[schedule_pb2.JobRequest]:
            yield from self._requests(batch, dice.randrange(1, len(batch.jobs)))
            sent.set()
            over.wait()

        batch.submission = Submission.CUT
        call = api.schedule.ExecuteJobs.future(part(), **api.call(timeout=CALL_SECONDS))
        call.add_done_callback(lambda _: sent.set())
        sent.wait(CALL_SECONDS)
        self._stopping.wait(dice.uniform(0, 0.1))
        call.cancel()  # before the part could look like the whole
        over.set()

    # -- what others do meanwhile

    def _follow(self, batch: Batch, *, slow: bool) -> None:
        with self._lock:
            for thread in [t for t in self._followers if not t.is_alive()]:
                del self._followers[thread]
            if len(self._followers) >= MOST_FOLLOWERS:
                return
            follower = Follower(self._follow_api, self._history, batch, slow=slow)
            thread = threading.Thread(target=follower.run, name=f"follow {batch.tag}")
            self._followers[thread] = follower
            thread.start()

    def _ask(self, api: Api, dice: random.Random) -> None:
        batches = self._unfinished()
        known = [b for b in list(self._history.batches.values())[-60:] if b.expected]
        asker = Asker(api, self._history)
        for batch in [*batches[:20], *dice.sample(known, min(3, len(known)))]:
            if self._stopping.is_set():
                return
            if dice.random() < 0.6:
                asker.batch(batch, 5)
            else:
                asker.jobs(batch, 5)

    def _cancel(self, api: Api, dice: random.Random) -> None:
        batches = self._unfinished()
        if not batches or dice.random() > 0.15:
            return
        batch = dice.choice(batches)
        some = [] if dice.random() < 0.5 else dice.sample(range(len(batch.jobs)), dice.randint(1, len(batch.jobs)))
        batch.cancelled |= set(some) or {ALL}
        request = schedule_pb2.CancelBatchRequest(correlation_id=batch.correlation_id, job_index=some)
        began = time.monotonic()
        try:
            answer = api.schedule.CancelBatch(request, **api.call(timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            self._history.failed("CancelBatch", status(error))
            return
        Asker(api, self._history).saw(batch, answer, began, "CancelBatch")


def uuid7(dice: random.Random) -> str:
    """A UUIDv7 of now."""
    value = (
        (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | dice.getrandbits(12) << 64 | 0x2 << 62 | dice.getrandbits(62)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

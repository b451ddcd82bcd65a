"""What becomes of output beyond the limit: `end` (see test_output), the beginning kept, or the end kept."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Self

import pytest

from jobworker.executor.protocol import End
from jobworker.executor.pump import MOST_STEP_BYTES, PIECE_BYTES, PUNCH_ALIGNMENT
from tests.harness.executor import Executor, wait_until
from tests.harness.failcalls import FailCalls

SLACK_BYTES = MOST_STEP_BYTES + PIECE_BYTES + PUNCH_ALIGNMENT
MiB = 1 << 20


class Sampled:
    """The most that a file ever had allocated, looked at all the time."""

    def __init__(self, path: Path) -> None:
        self.most = self.samples = 0
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.0005):
            if self._path.exists():
                self.most = max(self.most, os.stat(self._path).st_blocks * 512)
                self.samples += 1


def hole_of(path: Path) -> int:
    """Where the first data of a file are."""
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_DATA)


def numbered(begin: int, stop: int) -> bytes:
    """What `seq` prints, of fixed width."""
    return b"".join(b"%09d\n" % number for number in range(begin, stop))


def end_of_flood(executor: Executor, name: str) -> End:
    """Waits for as long as the log grows."""
    path = executor.log_path(name)
    while name not in executor.ends:
        size = path.stat().st_size
        executor.until(lambda size=size: name in executor.ends or path.stat().st_size > size, "it goes on")
    return executor.ends[name]


# 10 GB through a pipe and into the page cache take some 8 s; of the others less shows as much.
@pytest.mark.parametrize(
    ("policy", "printed"), [("truncate_head", 10_000_000_000), ("truncate_tail", 2_000_000_000), ("end", 2_000_000_000)]
)
def test_a_flood_leaves_the_disk_within_the_limit_at_all_times(plain: Executor, policy: str, printed: int) -> None:
    limit = 64 * MiB
    order = plain.order(f"head -c {printed} /dev/zero", log_bytes=limit, log_policy=policy)
    path = plain.log_path(order["id"])
    with Sampled(path) as sampled:
        plain.give(order)
        end = end_of_flood(plain, order["id"])
    assert sampled.samples
    assert sampled.most <= limit + (SLACK_BYTES if policy == "truncate_head" else PUNCH_ALIGNMENT)
    assert end["lost"] == 0
    if policy == "end":
        assert (end["reason"], end["logs"]) == ("log limit", [limit])
        assert end["dropped_tail"] == [end["over"]]
    elif policy == "truncate_tail":
        assert (end["reason"], end["code"], end["logs"]) == ("exited", 0, [limit])
        assert end["dropped_tail"] == [printed - limit]
    else:
        assert (end["reason"], end["code"], end["logs"], end["over"]) == ("exited", 0, [printed], 0)
        (head,) = end["dropped_head"]
        assert head == hole_of(path)
        assert limit <= printed - head <= limit + SLACK_BYTES


@pytest.mark.parametrize("limit", [1, 1000, 65_536, 300_000])
def test_the_end_that_is_kept_is_exact(executor: Executor, limit: int) -> None:
    count = 300_000
    (name,) = executor.give(executor.order(f"seq -f %09.0f 0 {count - 1}", log_bytes=limit, log_policy="truncate_head"))
    end = executor.end(name)
    assert (end["code"], end["logs"]) == (0, [10 * count])
    (head,) = end["dropped_head"]
    log = executor.log(name)
    assert head == hole_of(executor.log_path(name))
    assert limit <= len(log) - head <= limit + SLACK_BYTES
    assert log[head:] == numbered(0, count)[head:]
    assert not log[:head].strip(b"\0")


@pytest.mark.parametrize("policy", ["truncate_head", "truncate_tail"])
def test_a_job_within_its_limit_has_nothing_dropped(plain: Executor, policy: str) -> None:
    end = plain.run("printf 1234567890", log_bytes=10, log_policy=policy)
    assert (end["reason"], end["logs"], end["over"], end["detail"]) == ("exited", [10], 0, "")
    assert "dropped_head" not in end
    assert "dropped_tail" not in end


def test_the_beginning_is_kept_of_both_outputs_together(plain: Executor) -> None:
    order = plain.order("printf 1234567; sleep 0.1; printf 89abc >&2; sleep 0.1; printf d; exit 3", separate=True)
    (name,) = plain.give({**order, "log_bytes": 10, "log_policy": "truncate_tail"})
    end = plain.end(name)
    assert (end["reason"], end["code"], end["logs"], end["dropped_tail"]) == ("exited", 3, [7, 3], [1, 2])
    assert (plain.log(name, 0), plain.log(name, 1)) == (b"1234567", b"89a")


def test_of_the_end_each_output_keeps_its_half(plain: Executor) -> None:
    half = 2 * MiB
    most = half + half // 4 + PIECE_BYTES + PUNCH_ALIGNMENT
    command = "echo the first >&2; head -c 40000000 /dev/zero; echo the last >&2; sleep 0.2"
    # Then the other one is at its limit, and the first goes on: each has its own.
    order = plain.order(
        f"{command}; head -c 1300000 /dev/zero >&2; sleep 0.2; head -c 1200000 /dev/zero", separate=True
    )
    (name,) = plain.give({**order, "log_bytes": 2 * half, "log_policy": "truncate_head"})
    end = plain.end(name)
    assert plain.log(name, 1) == b"the first\nthe last\n" + bytes(1_300_000)
    head, none = end["dropped_head"]
    assert (end["logs"], none) == ([41_200_000, 1_300_019], 0)
    assert half <= 41_200_000 - head <= most


def test_a_log_without_a_limit_is_whole_whatever_the_policy(plain: Executor) -> None:
    for policy in ("truncate_head", "truncate_tail"):
        (name,) = plain.give(plain.order("head -c 3000000 /dev/zero", log_policy=policy))
        end = plain.end(name)
        assert end["logs"] == [3_000_000]
        assert hole_of(plain.log_path(name)) == 0


def test_a_flood_that_is_dropped_delays_no_other_job(plain: Executor) -> None:
    floods = [plain.order("exec yes", log_bytes=MiB, log_policy=p) for p in ("truncate_head", "truncate_tail")]
    names = plain.give(*floods, *(plain.order("echo quick") for _ in range(20)))
    for name in names[2:]:
        assert plain.end(name)["code"] == 0
        assert plain.log(name) == b"quick\n"
    wait_until(lambda: plain.log_path(names[0]).stat().st_size > 16 * MiB, "a flood")
    assert not {names[0], names[1]} & set(plain.ends)
    plain.stop(*names[:2])
    assert [plain.end(name)["reason"] for name in names[:2]] == ["cancelled"] * 2


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EIO])
def test_where_no_hole_can_be_punched_the_beginning_is_kept_and_the_end_says_so(
    failing: Executor, calls: FailCalls, error: int
) -> None:
    calls.fail("fallocate64", error)
    count = 300_000
    (name,) = failing.give(
        failing.order(f"seq -f %09.0f 0 {count - 1}; exit 3", log_bytes=100_000, log_policy="truncate_head")
    )
    end = failing.end(name)
    assert (end["reason"], end["code"]) == ("exited", 3)
    assert end["detail"] == (
        f"its log has the beginning and not the end: no hole can be punched (fallocate: {os.strerror(error)})"
    )
    (size,), (dropped,) = end["logs"], end["dropped_tail"]
    assert size + dropped == 10 * count
    assert 100_000 <= size <= 100_000 + SLACK_BYTES
    assert failing.log(name) == numbered(0, count)[:size]
    assert "dropped_head" not in end
    assert calls.failed("fallocate64") == 1


def test_a_full_disk_is_what_it_was_with_every_policy(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--disk-retry", "0.05", "--disk-patience", "0.2") as executor:
        executor.attach()
        for policy in ("truncate_head", "truncate_tail"):
            order = executor.order("echo lost; exec sleep 100", log_bytes=3, log_policy=policy)
            fd = os.open("/dev/full", os.O_WRONLY)
            executor.send({"m": "start", "epoch": executor.hello["epoch"], "orders": [order]}, [fd])
            os.close(fd)
            end = executor.end(order["id"])
            assert (end["reason"], end["logs"], end["lost"] + end["over"]) == ("disk full", [0], 5)


def test_an_order_with_a_policy_of_a_later_release_is_refused_in_words(plain: Executor) -> None:
    end = plain.run("echo hi", log_policy="compress")
    assert (end["reason"], end["detail"]) == (
        "spawn failed", "malformed order: an order's log_policy 'compress' is not known"
    )  # fmt: skip


def test_an_executor_says_that_it_knows_policies(plain: Executor) -> None:
    assert "log_policy" in plain.hello["features"]

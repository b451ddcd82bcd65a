"""Password hashes and their checks: in whose turn, how long, and without another thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from jobpki.passwords import hash_password, password_matches
from jobpki.profiles import PasswordCost
from jobworker.server.errors import ExhaustedError, UnavailableError
from jobworker.server.identity.fairqueue import FairQueue
from jobworker.server.identity.passwords import PasswordChecker
from tests.harness.pki import LOW_COST

GOOD = hash_password("right", LOW_COST)
# Seconds of one pass after another, in 8 KiB: much longer than the limits here.
ENDLESS = "$argon2id$v=19$m=8,t=1000000,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
WHO = {"name": "one", "subject": "user:alice"}


@pytest.mark.parametrize("cost", [PasswordCost(), LOW_COST, PasswordCost(iterations=2, lanes=3, memory_kib=100)])
def test_hashes_of_openssl_and_ours_are_the_same(cost: PasswordCost) -> None:
    other = Argon2id(
        salt=os.urandom(16), length=32, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory_kib
    )
    stored = other.derive_phc_encoded("pässwörd".encode())
    assert password_matches("pässwörd", stored)
    assert not password_matches("pässwörD", stored)
    Argon2id.verify_phc_encoded("pässwörd".encode(), hash_password("pässwörd", cost))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$argon2id$",
        GOOD[:-1],
        GOOD + "A",
        GOOD.replace("argon2id", "argon2d"),
        GOOD.replace("v=19", "v=20"),
        GOOD.replace("t=1", "t=0"),
        GOOD.replace("p=1", "p=0"),
        GOOD.replace("m=8", "m=0"),
        GOOD.replace("m=8", "m=9999999999"),
        GOOD.replace("t=1", "t=9999999999"),
        GOOD.replace("$m=", "$m=-"),
        GOOD.rpartition("$")[0] + "$A",
        "$argon2id$v=19$m=8,t=1,p=1$A$AAAA",
        "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA",
        GOOD + "A" * 10_000,
    ],
)
def test_what_is_no_hash_matches_nothing(text: str) -> None:
    assert not password_matches("right", text)


def test_many_hashes_at_a_time_are_all_worked_out() -> None:
    stored = hash_password("right", PasswordCost())
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: password_matches("right", stored), range(12), timeout=60)) == [True] * 12


# In turn


def test_each_name_has_its_turn_and_within_a_name_who_came_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for name, item in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]:
        queue.put(name, item)
    queue.remove("c", "c1")
    queue.remove("c", "c1")
    assert len(queue) == 5
    assert [queue.take() for _ in range(6)] == ["a1", "b1", "a2", "b2", "a3", None]


def test_whoever_has_most_waiting_gives_way() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.take_surplus("a") is None
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    assert queue.take_surplus("a") is None
    assert queue.take_surplus("b") == "a3"
    queue.put("b", "b1")
    assert queue.take_surplus("b") is None  # both would have two
    assert [queue.take() for _ in range(4)] == ["a1", "b1", "a2", None]


@pytest.fixture
async def checker() -> AsyncIterator[PasswordChecker]:
    made = PasswordChecker(threads=1, waiting_max=6)
    yield made
    made.close()


async def test_a_certificate_with_many_checks_lets_the_others_pass(checker: PasswordChecker) -> None:
    ended: list[str] = []
    slow = hash_password("x", PasswordCost(memory_kib=8192))

    async def check(name: str) -> None:
        await checker.matches("wrong", slow, name=name, subject="")
        ended.append(name)

    tasks = [asyncio.create_task(check("guesser")) for _ in range(4)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(check("honest")), asyncio.create_task(check("other"))]
    await asyncio.gather(*tasks)
    assert ended == ["guesser", "guesser", "honest", "other", "guesser", "guesser"]


async def test_a_full_queue_has_room_for_a_certificate_that_has_nothing_in_it(checker: PasswordChecker) -> None:
    async def check(name: str) -> bool | str:
        try:
            return await checker.matches("right", GOOD, name=name, subject=f"user:{name}")
        except ExhaustedError as error:
            return error.subject

    names = [*["a"] * 5, *["b"] * 4, "c", "d", "e"]
    outcomes = await asyncio.gather(*map(check, names))
    # Of a, one runs and three wait, and its fifth is one too many; three of b wait. The queue is full then: b's fourth
    # would be one more than a has, and for c, d and e the last of those with most give way.
    assert outcomes[:5] == [True, True, "service", "service", "user:a"]
    assert outcomes[5:9] == [True, True, "service", "service"]
    assert outcomes[9:] == [True, True, True]
    assert checker.waiting == 0


async def test_who_leaves_gives_its_place_back(checker: PasswordChecker) -> None:
    for _ in range(10):
        tasks = [asyncio.create_task(checker.matches("right", GOOD, **WHO)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert checker.waiting == 0
        while True:  # the one that ran
            try:
                assert await checker.matches("right", GOOD, **WHO)
            except ExhaustedError:
                await asyncio.sleep(0.001)
            else:
                break


# In time


async def test_a_check_that_does_not_end_is_given_up_and_the_others_go_on() -> None:
    told: list[str] = []
    checker = PasswordChecker(threads=2, limit_seconds=0.2, on_problem=told.append)
    with pytest.raises(UnavailableError, match=r"not be checked within 0\.2 s"):
        await checker.matches("x", ENDLESS, **WHO)
    assert (checker.overdue, told) == (1, ["a password could not be checked within 0.2 s; 1 of 2 threads are stuck"])
    assert await checker.matches("right", GOOD, **WHO)
    second = asyncio.create_task(checker.matches("x", ENDLESS, **WHO))
    await asyncio.sleep(0)
    third = asyncio.create_task(checker.matches("right", GOOD, **WHO))
    for task in (second, third):
        with pytest.raises(UnavailableError):
            await task
    with pytest.raises(UnavailableError, match="do not end"):
        await checker.matches("right", GOOD, **WHO)
    assert checker.overdue == 2
    checker.close()


async def test_a_check_that_is_slow_and_ends_is_no_problem_any_more() -> None:
    checker = PasswordChecker(threads=1, limit_seconds=0.001)
    slow = hash_password("right", PasswordCost())
    with pytest.raises(UnavailableError):
        await checker.matches("right", slow, **WHO)
    async with asyncio.timeout(60):
        while checker.overdue:
            await asyncio.sleep(0.01)
    checker.close()


async def test_who_waits_at_the_end_is_told_so() -> None:
    checker = PasswordChecker(threads=1)
    slow = hash_password("right", PasswordCost())
    tasks = [asyncio.create_task(checker.matches("right", slow, **WHO)) for _ in range(3)]
    await asyncio.sleep(0)
    checker.close()
    assert await tasks[0]
    for task in tasks[1:]:
        with pytest.raises(UnavailableError, match="the service stops"):
            await task

"""Calls that the real service ends in the middle, since their token or certificate is good no more."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from jobworker.client import Client, JobRequest, PasswordLogin, UnauthenticatedError
from tests.harness.service import Service, running

TALKS = "for i in $(seq 100000); do echo line $i; sleep 0.02; done"


def jobpki(*arguments: str, service: Service, stdin: str = "") -> None:
    command = [str(Path(sys.executable).with_name("jobpki")), *arguments, "--dir", str(service.pki)]
    subprocess.run(command, input=stdin, check=True, capture_output=True, text=True)


class Calls:
    """A follow of a job that talks, one of a job that does not, and a wait for both."""

    def __init__(self, client: Client, name: str) -> None:
        self.lines = 0
        talks = client.follow(name, job_index=[0])
        silent = client.follow(name, job_index=[1])
        made = (self._read(talks), self._read(silent), client.wait(name))
        self.tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(call) for call in made]

    async def _read(self, follow: AsyncIterator[object]) -> bytes:
        log = b""
        async for chunk in follow:
            log += chunk.data  # type: ignore[attr-defined]
            self.lines = max(self.lines, log.count(b"\n"))
        return log

    async def go_on(self, lines: int) -> None:
        """Until so many more lines have come."""
        wanted = self.lines + lines
        while self.lines < wanted:
            for task in self.tasks:
                assert not task.done(), task.result()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def calls(service: Service, login: PasswordLogin, user: str) -> AsyncIterator[tuple[Client, str, Calls]]:
    bundle = service.pki / "clients" / user
    async with Client(address=f"localhost:{service.port}", bundle=bundle, token=login, patience_seconds=60) as client:
        name = (await client.submit([JobRequest(command=TALKS), JobRequest(command="sleep 600")])).correlation_id
        made = Calls(client, name)
        try:
            await made.go_on(5)
            yield client, name, made
        finally:
            for task in made.tasks:
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)


async def end_well(client: Client, name: str, made: Calls) -> None:
    """Cancels the batch; nothing of a log is twice or missing."""
    await client.cancel(name)
    talked, silent, batch = await asyncio.gather(*made.tasks)
    assert talked.splitlines() == [b"line %d" % n for n in range(1, talked.count(b"\n") + 1)]
    assert silent == b""
    assert batch.counts.cancelled == 2


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Whose tokens work for 3 seconds."""
    with running(tmp_path_factory.mktemp("short"), AUTH__TOKEN_LIFETIME_SECONDS="3") as made:
        yield made


async def test_calls_outlive_their_tokens(short: Service) -> None:
    logins = 0

    def password() -> str:
        nonlocal logins
        logins += 1
        return short.passwords["alice"]

    async with calls(short, PasswordLogin("alice", password), "alice") as (client, name, made):
        while logins < 6:
            await made.go_on(1)
        await end_well(client, name, made)


async def test_calls_outlive_a_change_of_the_password(service: Service) -> None:
    passwords = {"now": service.passwords["alice"]}
    asked = asyncio.Event()

    async def password() -> str:
        asked.set()
        return passwords["now"]

    async with calls(service, PasswordLogin("alice", password), "alice") as (client, name, made):
        for word in ("another word", "a third word"):
            asked.clear()
            passwords["now"] = word
            await asyncio.to_thread(jobpki, "passwd", "alice", "--password-file", "-", service=service, stdin=word)
            await asked.wait()
            await made.go_on(20)
        await end_well(client, name, made)


@pytest.mark.parametrize(
    ("user", "deed", "reason"),
    [
        ("alice", ["revoke", "alice"], "CERTIFICATE_REVOKED"),
        ("bob", ["disable", "bob"], "USER_DISABLED"),
        ("bob", ["remove", "bob"], "CERTIFICATE_REVOKED"),
    ],
)
async def test_what_no_login_mends_ends_them(service: Service, user: str, deed: list[str], reason: str) -> None:
    async with calls(service, PasswordLogin(user, service.passwords[user]), user) as (_, _, made):
        await asyncio.to_thread(jobpki, *deed, service=service)
        for ended in await asyncio.gather(*made.tasks, return_exceptions=True):
            assert isinstance(ended, UnauthenticatedError)
            assert ended.reason == reason


async def test_calls_go_over_to_a_certificate_that_takes_the_place_of_a_revoked_one(service: Service) -> None:
    login = PasswordLogin("alice", service.passwords["alice"])
    async with calls(service, login, "alice") as (client, name, made):
        path = service.pki / "clients/alice/tls.crt"
        serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
        await asyncio.to_thread(jobpki, "renew", "alice", service=service)
        await asyncio.to_thread(jobpki, "revoke", f"{serial:x}", service=service)
        links = client._connection.links
        while links._before or links.newest.bundle.certificate != path.read_bytes():
            await made.go_on(1)
        await end_well(client, name, made)

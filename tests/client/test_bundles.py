"""Bundles that are renewed while a client lives."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobworker.client import Client, HandshakeError, JobRequest, PasswordLogin, bundle
from jobworker.v1.job_pb2 import LOG_STREAM_MERGED
from jobworker.v1.query_pb2 import LogChunk, StreamLogsRequest
from tests.harness.peer import Abort, Peer, data, end
from tests.harness.service import Service

ID = "01940000-0000-7000-8000-000000000000"


def jobpki(*arguments: str, pki: Path) -> None:
    subprocess.run(
        [str(Path(sys.executable).with_name("jobpki")), *arguments, "--dir", str(pki)], check=True, capture_output=True
    )


@pytest.fixture
def own(pki: Path, tmp_path: Path) -> Path:
    """A PKI of the test's own."""
    return shutil.copytree(pki, tmp_path / "pki")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients look at their bundles at each call."""
    monkeypatch.setattr(bundle, "_LOOK_SECONDS", 0.0)


async def test_calls_under_way_end_in_peace_and_others_have_the_new_certificate(own: Path, always: None) -> None:
    go_on = asyncio.Event()

    async def slowly(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"before ")
        await go_on.wait()
        yield data(0, 7, b"after")
        yield end(0, 12)

    peer = Peer(own, logs={(0, LOG_STREAM_MERGED): b""}, script=[slowly])
    async with peer, Client(address=peer.address, bundle=own / "clients/admin") as client:
        follow = client.follow(ID)
        log = (await anext(follow)).data
        before = (own / "clients/admin/tls.crt").read_bytes()
        jobpki("renew", "admin", pki=own)
        after = (own / "clients/admin/tls.crt").read_bytes()
        await client.get(ID)
        assert [peer.certificates[0], peer.certificates[-1]] == [before, after]
        assert len(client._connection.links._before) == 1
        go_on.set()
        log += b"".join([chunk.data async for chunk in follow])
        assert client._connection.links._before == []  # the old channel is closed
        await client.get(ID)
        assert len(peer.requests) == 1
    assert log == b"before after"


async def test_half_of_a_bundle_is_not_taken(own: Path, always: None) -> None:
    folder = own / "clients/admin"
    async with Peer(own) as peer, Client(address=peer.address, bundle=folder) as client:
        await client.get(ID)
        first = peer.certificates[-1]
        key = (folder / "tls.key").read_bytes()
        jobpki("issue", "carol", pki=own)
        (folder / "tls.crt").write_bytes((own / "clients/carol/tls.crt").read_bytes())
        await client.get(ID)
        (folder / "tls.key").unlink()
        await client.get(ID)
        (folder / "tls.key").write_bytes(key[:100])
        await client.get(ID)
        assert set(peer.certificates) == {first}
        (folder / "tls.key").write_bytes((own / "clients/carol/tls.key").read_bytes())
        await client.get(ID)
        assert peer.certificates[-1] == (own / "clients/carol/tls.crt").read_bytes()


async def test_a_failed_handshake_has_the_files_looked_at_at_once(
    own: Path, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_LOOK_SECONDS", 1e9)
    folder = shutil.copytree(pki.with_name("other") / "clients/admin", tmp_path / "bundle")
    async with Peer(own) as peer, Client(address=peer.address, bundle=folder, patience_seconds=3600) as client:
        with pytest.raises(HandshakeError):
            await client.get(ID)
        for name in bundle.FILES:
            shutil.copy(own / "clients/admin" / name, folder / name)
        assert (await client.get(ID)).correlation_id == ID


async def test_a_client_lives_through_another_authority_without_a_failed_call(service: Service) -> None:
    command = "for i in $(seq 100000); do echo line $i; sleep 0.02; done"
    address, folder = f"localhost:{service.port}", service.pki / "clients/alice"
    login = PasswordLogin("alice", service.passwords["alice"])
    async with Client(address=address, bundle=folder, token=login, patience_seconds=60) as client:
        long = (await client.submit(JobRequest(command=command))).correlation_id
        first = (folder / "tls.crt").read_bytes(), (folder / "ca.crt").read_bytes()
        over = asyncio.Event()
        submitted = 0

        async def submit() -> None:
            nonlocal submitted
            while not over.is_set():
                answer = await client.submit([JobRequest(command="true")] * 2)
                assert (await client.wait(answer.correlation_id)).counts.succeeded == 2
                submitted += 1

        async def follow() -> bytes:
            return b"".join([chunk.data async for chunk in client.follow(long)])

        submitting, following = asyncio.create_task(submit()), asyncio.create_task(follow())
        for step in ("prepare", "switch", "finish"):
            await asyncio.to_thread(jobpki, "rotate-ca", step, pki=service.pki)
            await asyncio.to_thread(service.kill_server)
            enough = submitted + 3
            while submitted < enough:
                assert not submitting.done(), submitting.result()
                assert not following.done()
                await asyncio.sleep(0.01)
        over.set()
        await submitting
        await client.cancel(long)
        lines = await following
    assert lines.splitlines() == [b"line %d" % n for n in range(1, len(lines.splitlines()) + 1)]
    last = (folder / "tls.crt").read_bytes(), (folder / "ca.crt").read_bytes()
    assert first[0] != last[0]
    assert first[1] != last[1]

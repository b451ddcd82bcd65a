"""What a failed call tells its caller."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from jobworker.client import (
    BundleError,
    Client,
    ExhaustedError,
    InvalidArgumentError,
    PasswordLogin,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)
from tests.harness.peer import PASSWORD, Abort, Peer, retry_after

ID = "01940000-0000-7000-8000-000000000000"


async def test_violations_come_as_fields_and_words(client: Client, peer: Peer) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="correlation_id", description="is not a UUIDv7")
    peer.refusals = [Abort(grpc.StatusCode.INVALID_ARGUMENT, "correlation_id: is not a UUIDv7", (bad,))]
    with pytest.raises(InvalidArgumentError, match="is not a UUIDv7") as caught:
        await client.get("nonsense")
    assert caught.value.violations == (Violation("correlation_id", "is not a UUIDv7"),)


async def test_a_quota_says_whose_and_when_to_come_again(client: Client, peer: Peer) -> None:
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject="user:alice", description="disk")
    peer.refusals = [Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (quota, retry_after(2.5)))]
    with pytest.raises(ExhaustedError) as caught:
        await client.get(ID)
    assert (caught.value.subject, caught.value.retry_after_seconds) == ("user:alice", 2.5)


async def test_a_service_that_is_away_for_a_moment_is_tried_again(client: Client, peer: Peer) -> None:
    peer.refusals = [Abort(grpc.StatusCode.UNAVAILABLE, "draining", (retry_after(0.01),))] * 3
    assert (await client.get(ID)).correlation_id == ID
    assert not peer.refusals


async def test_a_service_that_is_not_there_is_given_up_on(pki: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with Client(address=address, bundle=pki / "clients/admin", patience_seconds=0.3) as client:
            with pytest.raises(UnavailableError):
                await client.get(ID)


def test_a_bundle_without_a_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ca\.crt: No such file"):
        Client(address="localhost:1", bundle=tmp_path)


def test_a_bundle_whose_file_is_no_pem_names_it(pki: Path, tmp_path: Path) -> None:
    for name in ("ca.crt", "tls.crt"):
        (tmp_path / name).write_bytes((pki / "clients/admin" / name).read_bytes())
    (tmp_path / "tls.key").write_bytes(b"")
    with pytest.raises(BundleError, match=r"tls\.key: is not a PEM file"):
        Client(address="localhost:1", bundle=tmp_path)


async def test_a_wrong_password_is_unauthenticated_and_tried_once(client: Client) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await client.login("admin", "wrong")
    assert caught.value.reason == "LOGIN_FAILED"


async def test_a_password_logs_in_once_and_again_when_the_token_is_refused(peer: Peer, pki: Path) -> None:
    login = PasswordLogin("admin", PASSWORD)
    async with Client(address=peer.address, bundle=pki / "clients/admin", token=login) as client:
        await client.get(ID)
        await client.get(ID)
        assert peer.tokens == 1
        peer.tokens += 1  # the service takes another now
        await client.get(ID)
        assert peer.tokens == 3


async def test_a_token_alone_is_not_renewed(peer: Peer, pki: Path) -> None:
    peer.tokens = 1
    async with Client(address=peer.address, bundle=pki / "clients/admin", token="t0") as client:
        with pytest.raises(UnauthenticatedError) as caught:
            await client.get(ID)
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_a_list_goes_on_over_its_pages(client: Client) -> None:
    assert [batch.name async for batch in client.list_batches()] == ["batch 0", "batch 1", "batch 2"]

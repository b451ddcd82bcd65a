"""Why the service cannot be reached is told, and at once where another try would not help: none of these waits for the
end of its patience."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobworker.client import Client, HandshakeError, UnavailableError, UnreachableError
from jobworker.client.cause import proxy_for
from tests.client.test_bundles import jobpki
from tests.harness.peer import Peer
from tests.harness.pki import make_pki, server_context

ID = "01940000-0000-7000-8000-000000000000"
ANEW = "get the bundle anew, from: jobpki export admin FILE"


async def refusal(address: str, bundle: Path, *, patience_seconds: float = 3600, **options: str) -> UnavailableError:
    async with Client(address=address, bundle=bundle, patience_seconds=patience_seconds, **options) as client:  # type: ignore[arg-type]
        with pytest.raises(UnavailableError) as caught:
            await client.get(ID)
    return caught.value


@pytest.fixture
def bundle(pki: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pki / "clients/admin", tmp_path / "bundle")


@asynccontextmanager
async def plain(answer: bytes) -> AsyncIterator[str]:
    """A service without TLS."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_authority_that_is_another(peer: Peer, pki: Path, bundle: Path) -> None:
    shutil.copy(pki.with_name("other") / "clients/admin/ca.crt", bundle / "ca.crt")
    error = await refusal(peer.address, bundle)
    assert isinstance(error, HandshakeError)
    assert str(error) == f"the service's certificate is of another authority than those in {bundle}/ca.crt - {ANEW}"


async def test_a_certificate_that_the_service_does_not_take(peer: Peer, pki: Path, bundle: Path) -> None:
    for name in ("tls.crt", "tls.key"):
        shutil.copy(pki.with_name("other") / "clients/admin" / name, bundle / name)
    error = await refusal(peer.address, bundle)
    assert isinstance(error, HandshakeError)
    words = "it does not trust the authority that signed it"
    assert str(error) == f"the service refuses {bundle}/tls.crt: {words} - {ANEW}"


async def test_a_refusal_that_says_why(pki: Path, bundle: Path) -> None:
    for name in ("tls.crt", "tls.key"):
        shutil.copy(pki.with_name("other") / "clients/admin" / name, bundle / name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(refuse_all, listener, server_context(pki / "server")))
        error = await refusal(f"localhost:{listener.getsockname()[1]}", bundle)
        listener.shutdown(socket.SHUT_RDWR)
        await serving
    assert str(error) == f"the service refuses {bundle}/tls.crt: unknown ca - {ANEW}"


def refuse_all(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Handshakes with OpenSSL, which sends alerts, until the listener is shut down."""
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        accepted.settimeout(60)
        with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as tls:
            with contextlib.suppress(OSError):
                tls.do_handshake()
            # Closed with something unread it would be reset, and the alert with it (RFC 2525 section 2.17).
            with contextlib.suppress(OSError):
                tls.shutdown(socket.SHUT_WR)
                while tls.recv(4096):
                    pass


async def test_a_key_that_is_not_the_certificates(peer: Peer, pki: Path, bundle: Path) -> None:
    shutil.copy(pki.with_name("other") / "clients/admin/tls.key", bundle / "tls.key")
    error = await refusal(peer.address, bundle)
    assert isinstance(error, HandshakeError)
    assert str(error) == f"{bundle}/tls.key: is not the key of {bundle}/tls.crt - {ANEW}"


async def test_a_name_that_is_not_in_the_services_certificate(peer: Peer, bundle: Path) -> None:
    error = await refusal(peer.address, bundle, server_name="jobs.example.org")
    assert isinstance(error, HandshakeError)
    assert str(error).startswith("the service's certificate is for localhost, ")
    assert str(error).endswith(
        ", not for jobs.example.org - connect to one of these, or run: jobpki renew server --san jobs.example.org"
    )


@pytest.mark.parametrize(("renewed", "who"), [("server", "bundle"), ("admin", "server")])
async def test_a_certificate_that_has_expired(tmp_path: Path, renewed: str, who: str) -> None:
    pki = make_pki(tmp_path / "pki", now=datetime.now(UTC) - timedelta(days=1000)).root
    await asyncio.to_thread(jobpki, "renew", renewed, pki=pki)
    async with Peer(pki) as peer:
        error = await refusal(peer.address, pki / "clients/admin")
    assert isinstance(error, HandshakeError)
    begin, _, end = str(error).partition(" expired on ")
    when, _, mend = end.partition(" UTC - ")
    assert datetime.fromisoformat(when).replace(tzinfo=UTC) < datetime.now(UTC)
    if who == "server":
        assert (begin, mend) == ("the service's certificate", "run: jobpki renew server")
    else:
        again = "get the bundle anew, from: jobpki renew admin && jobpki export admin FILE"
        assert (begin, mend) == (f"{pki}/clients/admin/tls.crt:", again)


async def test_a_certificate_that_is_not_valid_yet(tmp_path: Path, pki: Path, bundle: Path) -> None:
    later = make_pki(tmp_path / "pki", now=datetime.now(UTC) + timedelta(days=2)).root
    async with Peer(later) as peer:
        own = await refusal(peer.address, later / "clients/admin")
        shutil.copy(later / "clients/admin/ca.crt", bundle / "ca.crt")
        theirs = await refusal(peer.address, bundle)
    assert str(own).startswith(f"{later}/clients/admin/tls.crt: is valid from ")
    assert " UTC, and this machine's clock says " in str(own)
    assert isinstance(theirs, HandshakeError)
    assert "this machine's clock says" in str(theirs)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
async def test_a_service_that_does_not_speak_tls(bundle: Path, answer: bytes) -> None:
    async with plain(answer) as address:
        error = await refusal(address, bundle)
    assert isinstance(error, HandshakeError)
    assert str(error) == "it does not speak TLS: is this another service, or another of its ports?"


async def test_a_name_that_does_not_resolve(bundle: Path) -> None:
    error = await refusal("nowhere.invalid:50051", bundle)
    assert isinstance(error, UnreachableError)
    assert str(error) == "the name nowhere.invalid does not resolve"


async def test_an_address_of_another_form_is_not_looked_into(peer: Peer, bundle: Path) -> None:
    async with Client(address=f"dns:///{peer.address}", bundle=bundle, patience_seconds=0.3) as client:
        assert (await client.get(ID)).correlation_id == ID
    error = await refusal("dns:///nowhere.invalid:50051", bundle, patience_seconds=0.3)
    assert not isinstance(error, UnreachableError)


async def test_a_port_that_nobody_listens_at_may_be_listened_at_soon(bundle: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        error = await refusal(f"127.0.0.1:{taken.getsockname()[1]}", bundle, patience_seconds=0.3)
    assert not isinstance(error, UnreachableError)
    assert str(error) == "the service cannot be reached: connection refused"


async def test_loopback_goes_through_no_proxy(peer: Peer, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with Client(address=peer.address, bundle=bundle, patience_seconds=0.3) as client:
        assert (await client.get(ID)).correlation_id == ID


async def test_another_proxy_is_named_without_its_password(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:s3cret@127.0.0.1:1")
    error = await refusal("jobs.invalid:50051", bundle, patience_seconds=0.3)
    assert "s3cret" not in str(error)
    assert str(error) == (
        "the service cannot be reached through the proxy http://127.0.0.1:1, which the variable https_proxy names; "
        "no_proxy=jobs.invalid goes past it"
    )


async def test_a_handshake_through_a_proxy_fails_at_once(
    peer: Peer, pki: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        there_reader, there_writer = await asyncio.open_connection("localhost", peer.port)
        await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with Client(address="jobs.invalid:50051", bundle=bundle, server_name="localhost") as client:
            assert (await client.get(ID)).correlation_id == ID
        shutil.copy(pki.with_name("other") / "clients/admin/ca.crt", bundle / "ca.crt")
        error = await refusal("jobs.invalid:50051", bundle, server_name="localhost")
    assert isinstance(error, HandshakeError)
    assert str(error) == "the TLS handshake failed: CERTIFICATE_VERIFY_FAILED"


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("host", "environment", "variable"),
    [
        ("jobs.example.org", {"http_proxy": "http://p"}, "http_proxy"),
        ("jobs.example.org", {"http_proxy": "http://p", "grpc_proxy": "http://q"}, "grpc_proxy"),
        ("jobs.example.org", {"http_proxy": "http://p", "no_proxy": "localhost, example.org"}, None),
        ("jobs.example.org", {"http_proxy": "http://p", "no_grpc_proxy": "other", "no_proxy": "org"}, "http_proxy"),
        ("jobs.example.org", {"HTTPS_PROXY": "http://p"}, None),  # gRPC knows the lower case alone
        ("localhost", {"http_proxy": "http://p"}, None),
        ("127.0.0.9", {"http_proxy": "http://p"}, None),
        ("::1", {"http_proxy": "http://p"}, None),
    ],
)
def test_a_proxy_is_the_one_that_grpc_takes(host: str, environment: dict[str, str], variable: str | None) -> None:
    found = proxy_for(host, environment)
    assert (None if found is None else found[0]) == variable

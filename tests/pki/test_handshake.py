"""Real TLS handshakes with the bundles, in both directions."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.harness.pki import Pki, client_context, make_pki, server_context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("other"))


class _Server:
    """Takes one connection, and keeps the peer's certificate or the reason for none."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.peer: bytes | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        raw, _ = self._listener.accept()
        try:
            with raw, self._context.wrap_socket(raw, server_side=True) as connection:
                self.peer = connection.getpeercert(binary_form=True)
                connection.sendall(b"welcome")
        except OSError as error:
            self.error = error

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


def connect(server: _Server, context: ssl.SSLContext, name: str) -> bytes:
    """What the server says: with TLS 1.3 a client learns at its first read that it was refused."""
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port)) as raw,
            context.wrap_socket(raw, server_hostname=name) as connection,
        ):
            return connection.recv(100)
    finally:
        server.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_client_of_this_authority_is_let_in_and_known(pki: Pki, name: str) -> None:
    server = _Server(server_context(pki.layout.server))
    assert connect(server, client_context(pki.client("alice")), name) == b"welcome"
    assert server.peer == ssl.PEM_cert_to_DER_cert(pki.certificate_pem("alice").decode())


def test_a_client_without_a_certificate_is_refused(pki: Pki) -> None:
    server = _Server(server_context(pki.layout.server))
    with pytest.raises(OSError):  # an alert, or a reset where the server closes first
        connect(server, client_context(pki.client("alice"), with_certificate=False), "localhost")
    assert isinstance(server.error, ssl.SSLError)
    assert server.error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def test_a_client_of_another_authority_is_refused(pki: Pki, other: Pki) -> None:
    server = _Server(server_context(pki.layout.server))
    with pytest.raises(OSError):
        connect(server, client_context(other.client("alice"), ca=pki.layout.server / "ca.crt"), "localhost")
    assert isinstance(server.error, ssl.SSLCertVerificationError)


def test_a_client_with_the_servers_certificate_is_refused(pki: Pki) -> None:
    server = _Server(server_context(pki.layout.server))
    with pytest.raises(OSError):
        connect(server, client_context(pki.layout.server), "localhost")
    assert isinstance(server.error, ssl.SSLCertVerificationError)


def refusal(server_bundle: Path, client: ssl.SSLContext, server_ca: Path, name: str) -> str:
    context = server_context(server_bundle)
    context.load_verify_locations(server_ca)
    server = _Server(context)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        connect(server, client, name)
    return caught.value.verify_message


def test_a_server_of_another_authority_is_refused_by_the_client(pki: Pki, other: Pki) -> None:
    message = refusal(
        other.layout.server, client_context(pki.client("alice")), pki.layout.server / "ca.crt", "localhost"
    )
    assert message in {"unable to get local issuer certificate", "self-signed certificate in certificate chain"}


def test_a_server_under_another_name_is_refused_by_the_client(pki: Pki) -> None:
    bundle = pki.layout.server
    message = refusal(bundle, client_context(pki.client("alice")), bundle / "ca.crt", "elsewhere.example")
    assert "elsewhere.example" in message


def test_a_client_certificate_does_not_serve(pki: Pki) -> None:
    message = refusal(pki.client("bob"), client_context(pki.client("alice")), pki.layout.server / "ca.crt", "localhost")
    assert message in {"unsuitable certificate purpose", "unsupported certificate purpose"}  # OpenSSL 3, 1.1.1

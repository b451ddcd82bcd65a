"""What the listener's TLS offers: authenticated encryption alone, and no session that goes on without a certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest

from tests.harness.pki import client_context
from tests.harness.rest import rest
from tests.harness.service import CALL_SECONDS, Service


def test_no_session_is_resumed_so_that_each_connection_shows_its_certificate(shared_service: Service) -> None:
    context = client_context(shared_service.pki / "clients" / "alice")
    session = None
    for _ in range(3):
        with _connect(shared_service, context, session) as connection:
            assert not connection.session_reused
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
            session = connection.session  # a ticket would have come with the answer
            assert session is None or not session.has_ticket
            with contextlib.suppress(ssl.SSLError):  # an orderly end, after which a session could be used again
                connection.unwrap()


@pytest.mark.parametrize("suites", ["ECDHE+AES:!AESGCM:!AESCCM", "kRSA", "aNULL", "ECDHE+AESGCM"])
def test_an_older_version_is_refused_with_each_of_its_suites(shared_service: Service, suites: str) -> None:
    context = client_context(shared_service.pki / "clients" / "alice")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _connect(shared_service, context, None)


def test_the_description_is_for_users_and_not_for_the_health_check(shared_service: Service) -> None:
    health = rest(shared_service, login=False)
    health.context = client_context(shared_service.pki / "health")
    answer = health("GET", "/openapi.json")
    assert (answer.status, answer.json["code"]) == (403, 7)
    for encoding in ("", "gzip"):
        described = rest(shared_service, login=False)("GET", "/openapi.json", accept_encoding=encoding)
        assert (described.status, described.json["openapi"][:2]) == (200, "3.")


def _connect(service: Service, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", service.rest_port), CALL_SECONDS)
    try:
        return context.wrap_socket(plain, server_hostname="localhost", session=session)
    except BaseException:
        plain.close()
        raise

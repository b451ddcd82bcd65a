"""Bodies and headers that are too large, too slow, compressed, of another type, or no HTTP: each is told, and the
service is unharmed."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import socket
import ssl
import zlib
from collections.abc import Iterator

import pytest

from tests.harness.rest import Rest, rest
from tests.harness.service import Service, running
from tests.harness.wait import until

PATIENCE_SECONDS = 1
LIMIT_BYTES = 65536
CONNECTIONS = 5


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with small limits."""
    settings = {"REST__BODY_SECONDS": str(PATIENCE_SECONDS), "REST__IDLE_SECONDS": str(PATIENCE_SECONDS),
                "REST__MAX_BODY_BYTES": str(LIMIT_BYTES), "REST__CONNECTIONS": str(CONNECTIONS)}  # fmt: skip
    with running(tmp_path_factory.mktemp("impatient") / "service", **settings) as service:
        yield service


@pytest.fixture
def small(impatient: Service) -> Iterator[Rest]:
    """Alice there; after each test it still answers."""
    found = rest(impatient)
    yield found
    assert until(lambda: found("GET", "/v1/batches?page_size=1").status == 200)


def test_a_compressed_body_is_taken(ours: Rest) -> None:
    body = gzip.compress(json.dumps({"command": "true", "name": "x" * 200}).encode())
    assert ours("POST", "/v1/job/schedule", body, content_encoding="gzip").status == 200
    lines = gzip.compress(b'{"command":"true"}\n') + gzip.compress(b'{"command":"true"}\n')
    answer = ours("POST", "/v1/batches", lines, content_encoding="gzip", content_type="application/x-ndjson")
    assert (answer.status, answer.json["jobCount"]) == (200, 2)


@pytest.mark.parametrize("body", [b"{}", gzip.compress(b'{"command":"true"}')[:-9], zlib.compress(b"{}"), b"\x1f\x8b"])
def test_a_body_that_is_not_gzip_and_says_so_is_refused(ours: Rest, body: bytes) -> None:
    answer = ours("POST", "/v1/job/schedule", body, content_encoding="gzip")
    assert (answer.status, answer.violations) == (400, ["body"])


def test_another_coding_or_charset_is_415(ours: Rest) -> None:
    for header, value in {"content_encoding": "br", "content_type": "application/json; charset=latin1"}.items():
        answer = ours("POST", "/v1/job/schedule", b"{}", **{header: value})
        assert (answer.status, answer.violations) == (415, [header.replace("_", "-")])
    good = ours("POST", "/v1/job/schedule", {"command": "true"}, content_type='Application/JSON; charset="UTF-8"')
    assert good.status == 200


def test_a_body_over_the_limit_is_413_however_it_comes(small: Rest) -> None:
    large = json.dumps({"command": "true", "stdin": "A" * LIMIT_BYTES}).encode()
    bomb = gzip.compress(b" " * (64 << 20))
    for path in ("/v1/job/schedule", "/v1/batches"):
        assert small("POST", path, large).status == 413
        assert small("POST", path, bomb, content_encoding="gzip").status == 413
    chunked = _raw(small, _head("POST", "/v1/job/schedule", small, "transfer-encoding: chunked") + _chunks(large))
    assert chunked.startswith(b"HTTP/1.1 413 ")


def test_many_lines_may_be_more_than_the_limit_of_one(small: Rest) -> None:
    line = json.dumps({"command": "true", "stdin": "A" * (LIMIT_BYTES // 2)}).encode() + b"\n"
    answer = small("POST", "/v1/batches", line * 8, content_type="application/x-ndjson")
    assert (answer.status, answer.json["jobCount"]) == (200, 8)


def test_a_body_that_never_comes_is_408_and_leaves_nothing(impatient: Service, small: Rest) -> None:
    for path, part in {"/v1/job/schedule": b"{", "/v1/batches": b'{"command":"true"}\n'}.items():
        answer = _raw(small, _head("POST", path, small, "content-length: 1000") + part)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == 4
    assert not any((impatient.data / "active").iterdir())


def test_a_header_that_never_comes_ends_the_connection(small: Rest) -> None:
    for part in (b"", b"GET /v1/bat", b"GET /v1/batches HTTP/1.1\r\nhost: x\r\nx-"):
        assert _raw(small, part) == b""


def test_a_client_that_leaves_in_the_middle_of_a_batch_leaves_nothing(impatient: Service, small: Rest) -> None:
    for framing in ("transfer-encoding: chunked", "content-length: 1000000"):
        with small.socket() as sock:
            line = b'{"command":"true # %b"}\n' % (b"x" * (LIMIT_BYTES - 100))
            lines = 70_000 // len(line) + 1  # too much for memory: it goes to its file
            body = (b"%x\r\n%s\r\n" % (len(line), line) if "chunked" in framing else line) * lines
            sock.sendall(_head("POST", "/v1/batches", small, framing) + body)
            until(lambda: any((impatient.data / "active").iterdir()), "the batch is on its way in")
        until(lambda: not any((impatient.data / "active").iterdir()), "nothing is left of it")
    assert small("GET", "/v1/batches?state=BATCH_STATE_QUEUED").json["batches"] == []


def test_a_client_that_asks_and_never_reads_is_cut(small: Rest) -> None:
    asked = _head("GET", "/openapi.json", small) * 100  # each answer has some 40 kB
    with small.socket() as sock:
        sock.settimeout(0.1)

        def gone() -> bool:
            try:
                sock.sendall(asked)
            except TimeoutError:
                return False  # the server takes no more either, while its answers are not taken
            except OSError:
                return True
            return False

        until(gone, "the connection is ended")


def test_connections_are_bounded_and_the_next_one_is_told(small: Rest) -> None:
    batch = small.submit("sleep 60")
    with contextlib.ExitStack() as held:
        for _ in range(CONNECTIONS):
            response = held.enter_context(small.open("GET", f"/v1/batches/{batch}/jobs/0/logs"))
            assert response.status == 200
        answer = small("GET", "/openapi.json")
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, 14, "1")
    until(lambda: small("GET", "/openapi.json").status == 200, "the connections are free again")
    assert small("POST", f"/v1/batches/{batch}:cancel", {"grace": "0s"}).json["state"] == "BATCH_STATE_CANCELLED"


@pytest.mark.parametrize("request_bytes", [
    b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
])  # fmt: skip
def test_what_is_no_http_is_told_in_json(ours: Rest, request_bytes: bytes) -> None:
    head, _, body = _raw(ours, request_bytes).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 ", head)
    assert json.loads(body)["code"] == 3


def test_broken_chunks_are_told(ours: Rest) -> None:
    answer = _raw(
        ours, _head("POST", "/v1/job/schedule", ours, "transfer-encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n"
    )
    assert re.match(rb"HTTP/1\.[01] 400 ", answer)


def test_expect_100_continue_is_answered_before_the_body_and_not_before_a_refusal(ours: Rest) -> None:
    body = b'{"command":"true"}'
    with ours.socket() as sock:
        sock.sendall(_head("POST", "/v1/job/schedule", ours, f"content-length: {len(body)}", "expect: 100-continue"))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    token, ours.token = ours.token, ""
    with ours.socket() as sock:
        sock.sendall(_head("POST", "/v1/job/schedule", ours, f"content-length: {len(body)}", "expect: 100-continue"))
        assert sock.recv(100).startswith(b"HTTP/1.1 401 ")
    ours.token = token


def test_requests_follow_one_another_on_a_connection(ours: Rest) -> None:
    connection = ours.connect()
    for path, status in (("/v1/batches", 200), ("/nothing", 404), ("/v1/batches?x=1", 400), ("/v1/batches", 200)):
        connection.request("GET", path, headers=ours.headers(None, {}))
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_without_a_certificate_of_the_authority_there_is_no_connection(shared_service: Service) -> None:
    anonymous = ssl.create_default_context(cafile=shared_service.pki / "clients/alice/ca.crt")
    connection = http.client.HTTPSConnection("localhost", shared_service.rest_port, context=anonymous, timeout=30)

    def ask() -> None:
        connection.request("GET", "/openapi.json")
        connection.getresponse()

    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask()
    connection.close()


def test_plain_http_is_refused(shared_service: Service) -> None:
    with socket.create_connection(("127.0.0.1", shared_service.rest_port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"HTTP/" not in _read(sock)


def _head(method: str, path: str, user: Rest, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    if user.token:
        lines.append(f"authorization: Bearer {user.token}")
    return "\r\n".join([*lines, "", ""]).encode()


def _chunks(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def _raw(user: Rest, data: bytes) -> bytes:
    """What comes back until the server closes, or for an answer with a length, all of it."""
    with user.socket() as sock:
        sock.sendall(data)
        return _read(sock)


def _read(sock: socket.socket) -> bytes:
    found = bytearray()
    while not _whole(found):
        try:
            piece = sock.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            break
        if not piece:
            break
        found += piece
    return bytes(found)


def _whole(data: bytes | bytearray) -> bool:
    head, end, body = bytes(data).lower().partition(b"\r\n\r\n")
    _, _, length = head.partition(b"content-length: ")
    return bool(end and length) and len(body) >= int(length.split(b"\r\n")[0])

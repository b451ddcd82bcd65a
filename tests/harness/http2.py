"""A call over HTTP/2 by hand, with headers that no gRPC client would send: RFC 9113 and RFC 7541, the plainest form.
Frames and headers are bench/caller.py's too."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence

from tests.harness.pki import client_context
from tests.harness.service import CALL_SECONDS, Service

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Headers = Sequence[tuple[bytes, bytes]]


def call(service: Service, user: str, method: str, headers: Headers, message: bytes = b"") -> bytes:
    """A gRPC call of a method (`/jobworker.v1.AuthService/Login`) with more headers than it needs; everything that
    comes back until the stream or the connection ends."""
    with connected(service, user) as connection:
        block = b"".join(literal(name, value) for name, value in [*usual(method), *headers])
        connection.sendall(
            PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, block) + data_frame(1, message)
        )
        return _answer(connection)


def connected(service: Service, user: str) -> ssl.SSLSocket:
    """A connection with a user's certificate; the preface is not sent yet."""
    context = client_context(service.pki / "clients" / user)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", service.port), CALL_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost")


def usual(method: str) -> list[tuple[bytes, bytes]]:
    """The headers that each call needs."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", method.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]


def data_frame(stream: int, message: bytes) -> bytes:
    """The only message of a call."""
    return frame(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message)


def _answer(connection: ssl.SSLSocket) -> bytes:
    data, seen = b"", b""
    while True:
        try:
            piece = connection.recv(65536)
        except (ConnectionError, ssl.SSLError):
            return seen
        if not piece:
            return seen
        data += piece
        while len(data) >= 9 and len(data) >= 9 + (length := int.from_bytes(data[:3])):
            kind, flags, stream = data[3], data[4], int.from_bytes(data[5:9])
            payload, data = data[9 : 9 + length], data[9 + length :]
            seen += payload
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY or (stream and (kind == RST_STREAM or (kind <= HEADERS and flags & END_STREAM))):
                return seen


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not to be indexed, without Huffman coding (RFC 7541 section 6.2.2)."""
    return b"\0" + string(name) + string(value)


def string(text: bytes) -> bytes:
    """RFC 7541 sections 5.1 and 5.2."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    found, rest = bytearray([127]), length - 127
    while rest >= 128:
        found.append(rest % 128 + 128)
        rest //= 128
    return bytes([*found, rest]) + text

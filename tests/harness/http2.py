"""A call over HTTP/2 by hand, with headers that no gRPC client would send: RFC 9113 and RFC 7541, the plainest form."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence

from tests.harness.pki import client_context
from tests.harness.service import CALL_SECONDS, Service

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_ACK = END_STREAM = 1
_END_HEADERS = 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Headers = Sequence[tuple[bytes, bytes]]


def call(service: Service, user: str, method: str, headers: Headers, message: bytes = b"") -> bytes:
    """A gRPC call of a method (`/jobworker.v1.AuthService/Login`) with more headers than it needs; everything that
    comes back until the stream or the connection ends."""
    context = client_context(service.pki / "clients" / user)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", service.port), CALL_SECONDS)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        usual = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        block = b"".join(_literal(name, value) for name, value in [*usual, *headers])
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0)
            + _frame(_HEADERS, _END_HEADERS, 1, block)
            + _frame(_DATA, END_STREAM, 1, b"\0" + struct.pack(">I", len(message)) + message)
        )
        return _answer(connection)


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
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                connection.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY or (stream and (kind == 3 or (kind in (_DATA, _HEADERS) and flags & END_STREAM))):
                return seen


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that is not to be indexed, without Huffman coding (RFC 7541 section 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    """RFC 7541 sections 5.1 and 5.2."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    found, rest = bytearray([127]), length - 127
    while rest >= 128:
        found.append(rest % 128 + 128)
        rest //= 128
    return bytes([*found, rest]) + text

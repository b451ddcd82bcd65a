"""A client that speaks HTTP/2 frame by frame over mutual TLS (RFC 9113), and so does what a library would not: it
grants no window, sends half a request, pings without end."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM = 11
_INITIAL_WINDOW_SIZE = 4
_SECONDS = 60.0


def _string(value: bytes) -> bytes:
    """A string literal of HPACK, as it is (RFC 7541 section 5.2)."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, length = len(value) - 127, bytearray([127])
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    return bytes(length) + value


class Http2:
    """One connection with a user's bundle. `window`: what each stream may send us before we ask for more."""

    def __init__(self, port: int, bundle: Path, *, window: int = 65535) -> None:
        context = ssl.create_default_context(cafile=bundle / "ca.crt")
        context.load_cert_chain(bundle / "tls.crt", bundle / "tls.key")
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        self._stream = -1
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window))

    def close(self) -> None:
        """Ends it."""
        self.socket.close()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Sends a frame."""
        self.socket.sendall(
            len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
        )

    def call(self, method: str, token: str, message: bytes | None, *, announced: int | None = None) -> int:
        """Begins a call and returns its stream's number. No `message`: the request is left open. `announced`: the
        length that the message is said to have; if that is more than it has, the rest does not come."""
        self._stream += 2
        headers = {
            b":method": b"POST", b":scheme": b"https", b":path": method.encode(), b":authority": b"localhost",
            b"content-type": b"application/grpc", b"te": b"trailers", b"authorization": f"Bearer {token}".encode(),
        }  # fmt: skip
        block = b"".join(b"\0" + _string(name) + _string(value) for name, value in headers.items())
        self.send(HEADERS, END_HEADERS, self._stream, block)
        if message is not None:
            length = len(message) if announced is None else announced
            whole = length == len(message)
            self.send(DATA, END_STREAM if whole else 0, self._stream, b"\0" + length.to_bytes(4, "big") + message)
        return self._stream

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """What comes: kind, flags, stream, payload; to the end of the connection."""
        while True:
            head = self._read(9)
            payload = self._read(int.from_bytes(head[:3], "big"))
            if len(head) < 9:
                return
            yield head[3], head[4], int.from_bytes(head[5:9], "big"), payload

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except (ConnectionResetError, ssl.SSLEOFError):
                return b""
            if not piece:
                return b""
            data += piece
        return bytes(data)

"""Mutual TLS for HTTPS: a certificate of the service's own authority, shown anew on each connection."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.rpc.listener import Tls


def server_context(tls: Tls, *, failed: Callable[[], None]) -> ssl.SSLContext:
    """For a listener. `failed` is told of each handshake that failed; of clients that hang up in the middle of one,
    nobody is.

    TLS 1.3 alone: its suites are all AEAD, and without tickets it resumes no session. In 1.2 OpenSSL also resumes them
    from its own cache, which Python cannot switch off."""

    class Handshake(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError:
                failed()
                raise

    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.sslobject_class = Handshake
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.num_tickets = 0
    found.options |= ssl.OP_NO_TICKET
    found.verify_mode = ssl.CERT_REQUIRED
    found.load_verify_locations(cadata=tls.ca_pem.decode())
    found.set_alpn_protocols(["http/1.1"])
    # ssl takes files alone; this one is in memory and has no name.
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(tls.private_key_pem + b"\n" + tls.certificate_chain_pem)
        found.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return found

"""Run as a program: opens connections to a port of this machine from the addresses given, as fast as it can, and keeps
them. Standard library alone.

    flood.py PORT COUNT HELLO ADDRESS...

HELLO `tls` sends the first message of a handshake on each, and no more. It prints `opened` once it is through, goes on
opening another for each that the other side ends until its standard input is closed, and then prints how many it
opened in all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import socket
import ssl
import sys
import threading


def first_message() -> bytes:
    """A real ClientHello."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    hello = first_message() if sys.argv[3] == "tls" else b""
    addresses = itertools.cycle(sys.argv[4:])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    poll = select.poll()
    sockets: dict[int, socket.socket] = {}
    opened = 0

    def another() -> None:
        nonlocal opened
        sock = socket.socket()
        sock.settimeout(2)
        try:
            sock.bind((next(addresses), 0))
            sock.connect(("127.0.0.1", port))
            if hello:
                sock.send(hello)
        except OSError:
            sock.close()
            return
        opened += 1
        sockets[sock.fileno()] = sock
        poll.register(sock, select.POLLRDHUP | select.POLLHUP)

    for _ in range(count):
        if over.is_set():
            break
        another()
    print("opened", flush=True)
    while not over.is_set():
        for descriptor, _ in poll.poll(100):
            poll.unregister(descriptor)
            sockets.pop(descriptor).close()
            another()
    print(opened, flush=True)
    os._exit(0)


main()

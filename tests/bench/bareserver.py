"""The floor of what is streamed: a gRPC server with mutual TLS that sends, and does nothing else, in a process of its
own. A request is JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import uvloop

from jobworker.v1 import query_pb2
from tests.harness.service import LOCAL, Service

ZEROS = "/bench.Bare/Zeros"  # {"bytes": how many in all, "message_bytes": in each message}
OUTPUT = "/bench.Bare/Output"  # {"argv": a program}: what it prints, a message for each read of its pipe
_READ_BYTES = 1 << 16


async def _zeros(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    asked = json.loads(request)
    # Made once: gRPC's own cost alone.
    message = query_pb2.LogChunk(data=bytes(asked["message_bytes"])).SerializeToString()
    for _ in range(asked["bytes"] // asked["message_bytes"]):
        await context.write(message)


async def _output(request: bytes, _context: object) -> AsyncIterator[bytes]:
    argv = json.loads(request)["argv"]
    program = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    while piece := await program.stdout.read(_READ_BYTES):
        yield query_pb2.LogChunk(data=piece).SerializeToString()
    await program.wait()


def _serve(bundle: Path, port_to: Connection) -> None:
    async def serve() -> None:
        credentials = grpc.ssl_server_credentials(
            [((bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes())],
            (bundle / "ca.crt").read_bytes(),
            require_client_auth=True,
        )
        server = grpc.aio.server()
        handlers = {
            "Zeros": grpc.unary_stream_rpc_method_handler(_zeros),
            "Output": grpc.unary_stream_rpc_method_handler(_output),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bare", handlers),))
        port_to.send(server.add_secure_port("127.0.0.1:0", credentials))
        await server.start()
        await asyncio.Event().wait()

    uvloop.run(serve())


@contextlib.contextmanager
def bare_server(service: Service) -> Iterator[grpc.Channel]:
    """A channel to one that has the certificates of a service."""
    spawn = multiprocessing.get_context("spawn")
    port_from, port_to = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_serve, args=(service.pki / "server", port_to), daemon=True)
    process.start()
    bundle = service.pki / "clients" / "alice"
    credentials = grpc.ssl_channel_credentials(
        (bundle / "ca.crt").read_bytes(), (bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes()
    )
    try:
        with grpc.secure_channel(f"127.0.0.1:{port_from.recv()}", credentials, LOCAL) as channel:
            yield channel
    finally:
        process.terminate()
        process.join()

"""One follower of a 1 GiB log, over a bare gRPC stream of messages of the same size, both with mutual TLS."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import uvloop

from jobworker.v1 import query_pb2, schedule_pb2
from tests.harness.service import LOCAL, Service

SIZE = 1 << 30
ROUNDS = 3


def _bare_server(pki: str, message_bytes: int, port_to: Connection) -> None:
    async def stream(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        message = query_pb2.LogChunk(data=bytes(message_bytes)).SerializeToString()  # once: gRPC's own cost alone
        for _ in range(SIZE // message_bytes):
            await context.write(message)

    async def serve() -> None:
        bundle = Path(pki) / "server"
        credentials = grpc.ssl_server_credentials(
            [((bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes())],
            (bundle / "ca.crt").read_bytes(),
            require_client_auth=True,
        )
        server = grpc.aio.server()
        handler = grpc.unary_stream_rpc_method_handler(stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bare", {"Stream": handler}),))
        port_to.send(server.add_secure_port("127.0.0.1:0", credentials))
        await server.start()
        await asyncio.Event().wait()

    uvloop.run(serve())


def _receive(channel: grpc.Channel, method: str, request: bytes, metadata: list[tuple[str, str]]) -> tuple[float, int]:
    call = channel.unary_stream(method, response_deserializer=query_pb2.LogChunk.FromString)
    began = time.perf_counter()
    total = largest = 0
    for chunk in call(request, metadata=metadata):
        total += len(chunk.data)
        largest = max(largest, len(chunk.data))
    assert total == SIZE, total
    return time.perf_counter() - began, largest


def measure(service: Service) -> None:
    """Prints the ratio, pair by pair."""
    api = service.api("alice")
    job = schedule_pb2.JobRequest(command=f"head -c {SIZE} /dev/zero")
    correlation_id = api.submit(job)
    api.wait(correlation_id, 300)
    request = query_pb2.StreamLogsRequest(correlation_id=correlation_id).SerializeToString()
    method = "/jobworker.v1.JobQueryService/StreamLogs"
    _, message_bytes = _receive(api.channel, method, request, api.metadata)
    spawn = multiprocessing.get_context("spawn")
    port_from, port_to = spawn.Pipe(duplex=False)
    bare = spawn.Process(target=_bare_server, args=(str(service.pki), message_bytes, port_to), daemon=True)
    bare.start()
    bundle = service.pki / "clients" / "alice"
    credentials = grpc.ssl_channel_credentials(
        (bundle / "ca.crt").read_bytes(), (bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes()
    )
    ratios = []
    with grpc.secure_channel(f"127.0.0.1:{port_from.recv()}", credentials, LOCAL) as channel:
        for _ in range(ROUNDS):
            plain, _ = _receive(channel, "/bench.Bare/Stream", b"", [])
            ours, _ = _receive(api.channel, method, request, api.metadata)
            print(f"  bare {SIZE / plain / 2**20:6.0f} MiB/s   StreamLogs {SIZE / ours / 2**20:6.0f} MiB/s")
            ratios.append(plain / ours)
    bare.terminate()
    print(f"stream: a finished 1 GiB log over a bare stream of {message_bytes >> 10} KiB messages (aim 0.9):")
    print(f"  {statistics.median(ratios):.2f}")
    _live(service)


def _live(service: Service) -> None:
    """The same while the job writes it."""
    api = service.api("alice")
    with ThreadPoolExecutor(1) as pool:
        correlation_id = api.submit(schedule_pb2.JobRequest(command=f"sleep 1; head -c {SIZE} /dev/zero"))
        request = query_pb2.StreamLogsRequest(correlation_id=correlation_id).SerializeToString()
        method = "/jobworker.v1.JobQueryService/StreamLogs"
        seconds, _ = pool.submit(_receive, api.channel, method, request, api.metadata).result()
    print(f"  followed while it is written: {SIZE / (seconds - 1) / 2**20:.0f} MiB/s")

"""Large requests, parsed in slices: nothing else comes of them than protobuf's own parser makes."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError, Message

from jobworker.server.rpc.parse import AT_ONCE_BYTES, parse
from jobworker.server.slices import Slices
from jobworker.v1 import admin_pb2, job_pb2, query_pb2, schedule_pb2

J = schedule_pb2.JobRequest


def large_job(**more: object) -> J:
    return J(
        argv=["true", *(f"a{i}" for i in range(20_000))],
        env={f"k{i}": "v" * 10 for i in range(5000)},
        stdin=bytes(100_000),
        limits=job_pb2.Limits(memory_bytes=1 << 40),
        **more,
    )


def settings() -> admin_pb2.UpdateConfigRequest:
    request = admin_pb2.UpdateConfigRequest(generation=7)
    request.values.update({"jobs": {f"k{i}": ["x" * 100, i, None, {"deep": True}] for i in range(2000)}})
    return request


MESSAGES: dict[str, Message] = {
    "many jobs": J(jobs=[J(command=f"echo {i}", cwd="/") for i in range(20_000)], batch=job_pb2.BatchOptions(name="b")),
    "a large job": large_job(name="n"),
    "large jobs among small ones": J(jobs=[J(command="a"), large_job(), J(command="b"), large_job(), J(command="c")]),
    "numbers": query_pb2.StreamLogsRequest(job_index=[i * 37 % 1_000_003 for i in range(200_000)], offset=1 << 60),
    "messages in a list": query_pb2.StreamLogsRequest(
        cursors=[query_pb2.LogCursor(job_index=i, offset=i << 20) for i in range(30_000)], tail_lines=3
    ),
    "a tree": settings(),
    "one long string": J(command="x" * 300_000, batch=job_pb2.BatchOptions(labels={"k": "v" * 100_000})),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_large_request_is_what_protobuf_makes_of_it(name: str) -> None:
    sent = MESSAGES[name]
    data = sent.SerializeToString()
    assert len(data) > AT_ONCE_BYTES
    got = type(sent)()
    await parse(got, data, Slices())
    assert got == sent


async def test_fields_that_are_not_known_and_those_that_come_twice_are_as_protobuf_has_them() -> None:
    one = J(command="first", limits=job_pb2.Limits(memory_bytes=5, open_files=7)).SerializeToString()
    two = J(command="second", limits=job_pb2.Limits(memory_bytes=6), stdin=bytes(90_000)).SerializeToString()
    unknown = b"\xfa\x7c\x80\x80\x04" + bytes(65536) + b"\xf8\x7c\x01" + b"\xf9\x7c" + bytes(8) + b"\xfd\x7c" + bytes(4)
    data = one + unknown + two + J(argv=["x"] * 50_000).SerializeToString()
    got, expected = J(), J.FromString(data)
    await parse(got, data, Slices())
    assert got == expected
    assert got.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert (got.limits.memory_bytes, got.limits.open_files) == (6, 7)


async def test_bytes_that_are_no_message_are_refused_however_they_are_broken() -> None:
    data = MESSAGES["large jobs among small ones"].SerializeToString()
    dice = random.Random(4711)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(dice.randrange(1, 4)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        broken = broken[: dice.choice([len(broken), dice.randrange(AT_ONCE_BYTES + 1, len(broken))])]
        try:
            expected: J | None = J.FromString(bytes(broken))
        except DecodeError:
            expected = None
        got: J | None = J()
        assert got is not None
        try:
            await parse(got, bytes(broken), Slices())
        except DecodeError:
            got = None
        # A group of an unknown field is well-formed, and of no use to any of our messages: it is refused.
        assert got == expected or got is None

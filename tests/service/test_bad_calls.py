"""Bad calls: names, places, quotas and bytes that are not messages, each with the documented status and its details."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from jobworker.v1 import job_pb2, query_pb2, schedule_pb2
from tests.harness.refusal import refusal, refused
from tests.harness.service import Api, running

pytestmark = pytest.mark.usefixtures("unharmed")

UNKNOWN = "01900000-0000-7000-8000-000000000000"


def request(**fields: Any) -> schedule_pb2.JobRequest:
    """A good request, with more fields."""
    return schedule_pb2.JobRequest(**{"command": "true", **fields})


# Names of batches

MALFORMED = ["", "x", "../../../etc/passwd", UNKNOWN[:-1], f"{UNKNOWN}0", UNKNOWN.replace("7", "4"),
             "01900000-0000-7000-c000-000000000000", "00000000-0000-0000-0000-000000000000", f" {UNKNOWN}",
             "0190000000007000800000000000000g", "é" * 36, "x" * 100_000]  # fmt: skip


def calls(api: Api, correlation_id: str) -> dict[str, Callable[[], object]]:
    """Each call that names a batch."""
    return {
        "GetBatch": lambda: api.get(correlation_id),
        "WaitBatch": lambda: api.query.WaitBatch(
            query_pb2.WaitBatchRequest(correlation_id=correlation_id), **api.call()
        ),
        "SearchJob": lambda: api.query.SearchJob(
            query_pb2.SearchJobRequest(correlation_id=correlation_id), **api.call()
        ),
        "StreamLogs": lambda: api.follow(correlation_id),
        "CancelBatch": lambda: api.cancel(correlation_id),
    }


@pytest.mark.parametrize("rpc", calls(None, "").keys())  # type: ignore[arg-type]
def test_a_correlation_id_that_is_none_or_names_nothing_is_told(alice: Api, rpc: str) -> None:
    for text in MALFORMED:
        found = refused(calls(alice, text)[rpc])
        assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["correlation_id"]), text
    for unknown in (UNKNOWN, "ffffffff-ffff-7fff-bfff-ffffffffffff", UNKNOWN.replace("-", "")):
        found = refused(calls(alice, unknown)[rpc])
        assert (found.name, found.fields) == ("NOT_FOUND", []), unknown


def test_a_name_chosen_by_the_client_has_its_rules(alice: Api) -> None:
    now_ms = time.time_ns() // 1_000_000
    day_ms = 86_400_000

    def named(unix_ms: int) -> str:
        digits = f"{unix_ms:012x}7{secrets.token_hex(2)[1:]}8{secrets.token_hex(8)[1:]}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    bad = [t for t in MALFORMED if t.isascii() and len(t) < 1000]
    bad += [named(now_ms - 2 * day_ms), named(now_ms + 2 * day_ms), named(0), named(2**48 - 1)]
    for text in bad:
        for call in (
            lambda metadata: alice.submit("true", metadata=metadata),
            lambda metadata: alice.schedule.ExecuteJob(request(), **alice.call(metadata=metadata)),
        ):
            found = refused(lambda call=call, text=text: call([("x-correlation-id", text)]))
            assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["x-correlation-id"]), text
    twice = [("x-correlation-id", named(now_ms)), ("x-correlation-id", named(now_ms))]
    assert refused(lambda: alice.submit("true", metadata=twice)).fields == ["x-correlation-id"]
    for near in (named(now_ms - day_ms // 2), named(now_ms + day_ms // 2)):
        assert alice.submit("true", metadata=[("x-correlation-id", near)]) == near
        alice.wait(near)


# Places that are not there


def test_what_a_follower_asks_for_has_to_be_there(alice: Api) -> None:
    batch = alice.submit("echo hello", request(command="echo out", output=job_pb2.OUTPUT_MODE_SEPARATE))
    cursor = query_pb2.LogCursor
    cases: list[tuple[dict[str, Any], str]] = [
        ({"job_index": [2]}, "job_index[0]"),
        ({"job_index": [0, 1, 2**32 - 1]}, "job_index[2]"),
        ({"cursors": [cursor(job_index=2)]}, "cursors[0].job_index"),
        ({"cursors": [cursor(), cursor(job_index=1, offset=2**64 - 1)]}, "cursors[1].offset"),
        ({"cursors": [cursor(offset=7)]}, "cursors[0].offset"),
        ({"cursors": [cursor(stream=2)]}, "cursors[0].stream"),  # type: ignore[arg-type]
        ({"cursors": [cursor(stream=99)]}, "cursors[0].stream"),  # type: ignore[arg-type]
        ({"cursors": [cursor(), cursor()]}, "cursors[1]"),
        ({"offset": 3}, "offset"),
        ({"job_index": [0], "offset": 7}, "offset"),
    ]
    alice.wait(batch)
    for fields, field in cases:
        found = refused(lambda fields=fields: alice.follow(batch, **fields))
        beyond = field.endswith("offset") and fields != {"offset": 3}
        assert (found.name, found.fields) == ("OUT_OF_RANGE" if beyond else "INVALID_ARGUMENT", [field]), fields
    assert b"".join(c.data for c in alice.follow(batch, job_index=[0], offset=6)) == b""

    def search(**fields: Any) -> object:
        return alice.query.SearchJob(query_pb2.SearchJobRequest(correlation_id=batch, **fields), **alice.call())

    assert refused(lambda: search(job_index=[9])).fields == ["job_index[0]"]
    assert refused(lambda: search(state=[99])).fields == ["state[0]"]
    assert refused(lambda: alice.cancel(batch, 0, 2)).fields == ["job_index[1]"]
    negative = Duration(seconds=-1)
    cancel = schedule_pb2.CancelBatchRequest(correlation_id=batch, grace=negative)
    assert refused(lambda: alice.schedule.CancelBatch(cancel, **alice.call())).fields == ["grace"]
    wait = query_pb2.WaitBatchRequest(correlation_id=batch, timeout=negative)
    assert refused(lambda: alice.query.WaitBatch(wait, **alice.call())).fields == ["timeout"]


@pytest.mark.parametrize("token", ["x", UNKNOWN[:-1], "../..", "ffffffff-ffff-7fff-bfff-ffffffffffff", "é", "1" * 5000])
def test_a_page_token_that_no_listing_gave_is_refused_or_harmless(alice: Api, token: str) -> None:
    listing = query_pb2.ListBatchesRequest(page_token=token)
    try:
        alice.query.ListBatches(listing, **alice.call())
    except grpc.RpcError as error:
        found = refusal(error)
        assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["page_token"])


def test_a_listing_has_its_rules(alice: Api) -> None:
    def listing(**fields: Any) -> query_pb2.ListBatchesResponse:
        return alice.query.ListBatches(query_pb2.ListBatchesRequest(**fields), **alice.call())

    assert len(listing(page_size=2**32 - 1).batches) <= 1000
    assert len(listing(page_size=1).batches) <= 1
    assert refused(lambda: listing(state=[99])).fields == ["state[0]"]


# Quotas


def test_a_full_quota_is_told_with_whose_and_when_and_leaves_nothing(tmp_path: Path) -> None:
    quotas = {"LIMITS__BATCH_JOBS": "20", "LIMITS__USER_UNFINISHED_JOBS": "30", "LIMITS__USER_UNFINISHED_BATCHES": "2"}
    with running(tmp_path / "service", **quotas) as service:
        api = service.api()
        accepted: set[str] = set()

        def full(*jobs: str) -> None:
            found = refused(lambda: api.submit(*jobs))
            assert (found.name, found.subjects) == ("RESOURCE_EXHAUSTED", ["user:alice"])
            assert found.retry_seconds
            assert set(os.listdir(service.data / "active")) <= accepted

        full(*["true"] * 21)
        sleeper = api.submit(*["exec sleep 600"] * 20)
        accepted.add(sleeper)
        full(*["true"] * 11)
        second = api.submit("exec sleep 600")
        accepted.add(second)
        full("true")
        assert service.api("bob").submit("true")
        api.cancel(sleeper)
        assert api.wait(api.submit("true")).counts.succeeded == 1
        api.cancel(second)


# Bytes that are not messages

METHODS = ["AuthService/Login", "JobScheduleService/ExecuteJob", "JobScheduleService/CancelBatch",
           "JobQueryService/GetBatch", "JobQueryService/WaitBatch", "JobQueryService/ListBatches",
           "JobQueryService/SearchJob", "JobQueryService/StreamLogs"]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_refused(alice: Api, method: str) -> None:
    call = alice.channel.unary_stream(f"/jobworker.v1.{method}")
    no_utf8 = b"\x12\x02\xc3\x28" if method.endswith("ListBatches") else b"\x0a\x02\xc3\x28"
    for data in (b"\xff" * 100, b"\x0a\xff", no_utf8, b"\x00" + secrets.token_bytes(10_000), b"\x00"):
        found = refused(lambda data=data: call(data, timeout=60, metadata=alice.metadata))
        assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["request"])


def test_a_stream_with_bytes_that_are_no_message_is_refused_whole(alice: Api) -> None:
    call = alice.channel.stream_unary("/jobworker.v1.JobScheduleService/ExecuteJobs")
    good = request().SerializeToString()
    found = refused(lambda: call(iter([good, good, b"\xff\xff"]), timeout=60, metadata=alice.metadata))
    assert found.name == "INVALID_ARGUMENT"

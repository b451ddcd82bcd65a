"""Streams over HTTP: live, resumed, compressed, cut; as lines and as server-sent events."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import zlib
from pathlib import Path
from typing import Any

from tests.harness.rest import Event, Rest, events, rest
from tests.harness.service import Service, running
from tests.harness.wait import alive, until

SSE = "text/event-stream"


def data_of(chunks: list[Any], index: int = 0) -> bytes:
    """A job's bytes, which come in order and without holes."""
    found = b""
    for chunk in chunks:
        if chunk["jobIndex"] == index and "data" in chunk:
            assert int(chunk["offset"]) == len(found)
            found += base64.b64decode(chunk["data"])
    return found


def test_a_running_job_is_followed_live_to_its_end(ours: Rest, scratch: Path) -> None:
    gate = scratch / "gate"
    batch = ours.submit(f"echo one; while [ ! -e {gate} ]; do sleep 0.01; done; echo two")
    with ours.open("GET", f"/v1/batches/{batch}/jobs/0/logs") as response:
        first = json.loads(response.readline())["result"]
        assert base64.b64decode(first["data"]) == b"one\n"
        gate.touch()
        rest_of_it = [json.loads(line)["result"] for line in response]
    assert data_of([first, *rest_of_it]) == b"one\ntwo\n"
    assert rest_of_it[-1]["end"] == {"totalBytes": "8", "droppedBytes": "0", "state": "JOB_STATE_SUCCEEDED",
                                     "endReason": "END_REASON_EXITED", "exitCode": 0}  # fmt: skip


def test_a_search_of_a_running_batch_is_followed_to_its_end(ours: Rest) -> None:
    batch = ours.submit("echo a", "sleep 0.2; echo b")
    answer = ours("GET", f"/v1/job/search?correlation_id={batch}")
    last = [line["result"] for line in answer.lines if line["result"]["last"]]
    assert [(one["job"]["index"], one["result"]) for one in last] == [(0, "SUCCEEDED (exit code 0)"),
                                                                       (1, "SUCCEEDED (exit code 0)")]  # fmt: skip


def test_a_silent_job_has_its_headers_before_it_says_anything(ours: Rest) -> None:
    batch = ours.submit("sleep 60")
    for accept, kind in ((SSE, SSE), ("*/*", "application/x-ndjson")):
        with ours.open("GET", f"/v1/batches/{batch}/jobs/0/logs", accept=accept) as response:
            assert (response.status, response.headers["content-type"]) == (200, kind)
    ours("POST", f"/v1/batches/{batch}:cancel", {"grace": "0s"})


def test_a_stream_is_compressed_message_by_message(ours: Rest, scratch: Path) -> None:
    gate = scratch / "gate"
    batch = ours.submit(f"echo one; while [ ! -e {gate} ]; do sleep 0.01; done; head -c 300000 /dev/zero")
    with ours.open("GET", f"/v1/batches/{batch}/jobs/0/logs", accept_encoding="gzip") as response:
        assert response.headers["content-encoding"] == "gzip"
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
        text = b""
        while b"\n" not in text:
            text += unpack.decompress(response.read1(65536))
        assert data_of([json.loads(text)["result"]]) == b"one\n"  # while the job waits
        gate.touch()
        text += unpack.decompress(response.read())
    assert unpack.eof
    assert data_of([json.loads(line)["result"] for line in text.splitlines()]) == b"one\n" + bytes(300_000)


def test_head_of_a_stream_tells_of_it_and_has_no_body(ours: Rest) -> None:
    batch = ours.submit("echo hi; sleep 60")
    for path in (f"/v1/batches/{batch}/jobs/0/logs", f"/v1/job/search?correlation_id={batch}"):
        answer = ours("HEAD", path)
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/x-ndjson", b"")
    assert ours("HEAD", f"/v1/batches/{batch[:-1]}x/jobs/0/logs").status == 400
    ours("POST", f"/v1/batches/{batch}:cancel", {"grace": "0s"})


def test_events_have_ids_and_an_end(ours: Rest) -> None:
    batch = ours.submit("echo hi")
    ours.wait(batch)
    with ours.open("GET", f"/v1/batches/{batch}/jobs/0/logs", accept=SSE) as response:
        found = list(events(response))
    assert [(event.name, event.id) for event in found] == [("message", ";0.1=3"), ("message", "0;"), ("end", None)]
    assert data_of([event.data for event in found[:-1]]) == b"hi\n"


def test_events_go_on_after_the_last_id_with_no_byte_twice_and_none_missing(ours: Rest) -> None:
    """Cut after every single event, of a batch with one log and with two a job."""
    jobs = [{"command": f"for i in $(seq 5); do echo {n} $i; sleep 0.01; done; echo err >&2",
             "output": "OUTPUT_MODE_SEPARATE" if n % 2 else "OUTPUT_MODE_MERGED"} for n in range(6)]  # fmt: skip
    body = "\n".join(json.dumps(job) for job in jobs).encode()
    batch = ours("POST", "/v1/batches", body).json["correlationId"]
    got: list[Event] = []
    last, status = "", 200
    while True:
        with ours.open("POST", f"/v1/batches/{batch}/logs", {}, accept=SSE, last_event_id=last) as response:
            status = response.status
            event = next(iter(events(response)), None) if status == 200 else None
        if event is None or event.name == "end":
            break
        assert event.id is not None
        got.append(event)
        last = event.id
    assert status == 204  # nothing is left: do not come again
    assert last == "0-5;"
    logs: dict[tuple[int, str], bytes] = {}
    ends = []
    for event in got:
        key = (event.data["jobIndex"], event.data["stream"])
        if "end" in event.data:
            ends.append(key)
            continue
        assert int(event.data["offset"]) == len(logs.get(key, b""))
        logs[key] = logs.get(key, b"") + base64.b64decode(event.data["data"])
    for n in range(6):
        lines = b"".join(b"%d %d\n" % (n, i) for i in range(1, 6))
        if n % 2:
            assert logs[n, "LOG_STREAM_STDOUT"], logs[n, "LOG_STREAM_STDERR"] == (lines, b"err\n")
        else:
            assert logs[n, "LOG_STREAM_MERGED"] == lines + b"err\n"
    assert len(ends) == len(set(ends)) == 9


def test_an_id_that_is_none_is_refused(ours: Rest) -> None:
    batch = ours.submit("true")
    for last in ("x", "1", ";0.4=1", ";0.1=-1", "0-", ";0.1=99999999999999999999999", "9" * 5000 + ";"):
        answer = ours("GET", f"/v1/batches/{batch}/jobs/0/logs", accept=SSE, last_event_id=last)
        assert (answer.status, answer.violations) == (400, ["last-event-id"]), last
    ahead = ours("GET", f"/v1/batches/{batch}/jobs/0/logs", accept=SSE, last_event_id=";0.1=77")
    assert ahead.status == 400


def test_ranges_that_overlap_or_go_beyond_the_batch_cost_nothing(ours: Rest) -> None:
    batch = ours.submit("true", "true", "true")
    ours.wait(batch)
    last = ",".join(["0-9999999999"] * 300) + ";"
    assert ours("POST", f"/v1/batches/{batch}/logs", {}, accept=SSE, last_event_id=last).status == 204
    answer = ours("POST", f"/v1/batches/{batch}/logs", {}, accept=SSE, last_event_id="0,2;")
    assert b'"jobIndex":1' in answer.body
    assert b'"jobIndex":2' not in answer.body


def test_a_deadline_ends_a_stream_that_has_begun_with_its_status(ours: Rest) -> None:
    batch = ours.submit("echo hi; sleep 60")
    path = f"/v1/batches/{batch}/jobs/0/logs"
    until(lambda: ours("GET", f"{path}?no_follow=true").lines)
    answer = ours("GET", path, grpc_timeout="300m")
    assert answer.status == 200
    assert answer.lines[-1]["error"]["code"] == 4
    with ours.open("GET", path, accept=SSE, grpc_timeout="300m") as response:
        last = list(events(response))[-1]
    assert (last.name, last.data["code"]) == ("failed", 4)
    assert ours("GET", path, grpc_timeout="1x").violations == ["grpc-timeout"]
    ours("POST", f"/v1/batches/{batch}:cancel", {"grace": "0s"})


def test_who_hangs_up_is_followed_no_longer(service: Service) -> None:
    alice, admin = rest(service), rest(service, "admin")

    def followers() -> int:
        found: int = admin("GET", "/v1/admin/status").json["followers"]
        return found

    batch = alice.submit("sleep 60")
    with contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(alice.open("GET", f"/v1/batches/{batch}/jobs/0/logs"))
        assert followers() == 5
    until(lambda: followers() == 0, "the handlers have ended")


def test_a_reader_that_takes_nothing_is_cut_and_others_are_not(tmp_path: Path) -> None:
    with running(tmp_path / "service", GRPC__STALL_SECONDS="1") as service:
        alice = rest(service)
        batch = alice.submit("head -c 50000000 /dev/zero")
        alice.wait(batch)
        path = f"/v1/batches/{batch}/jobs/0/logs"
        with alice.open("GET", path) as stuck:
            assert stuck.status == 200
            log = service.folder / "logs" / "service.jsonl"
            until(lambda: '"RESOURCE_EXHAUSTED"' in log.read_text(), "the stalled stream is cut")
            found = [json.loads(line)["result"] for line in alice("GET", path).body.splitlines()]
            assert sum(len(base64.b64decode(c["data"])) for c in found if "data" in c) == 50_000_000
        until(lambda: alice("GET", "/v1/batches?page_size=1").status == 200)


def test_a_server_that_stops_tells_streams_to_come_again(tmp_path: Path, scratch: Path) -> None:
    gate = scratch / "gate"
    with running(tmp_path / "service") as service:
        alice = rest(service)
        batch = alice.submit(f"echo one; while [ ! -e {gate} ]; do sleep 0.01; done; echo two")
        path = f"/v1/batches/{batch}/jobs/0/logs"
        with (
            alice.open("GET", path) as lines,
            alice.open("GET", path, accept=SSE) as stream,
            alice.open("GET", f"/v1/job/search?correlation_id={batch}", accept_encoding="gzip") as search,
        ):
            assert json.loads(lines.readline())["result"]
            following = iter(events(stream))
            first = next(following)
            server = service.child("server")
            os.kill(server, signal.SIGTERM)
            assert json.loads(lines.readline())["error"]["code"] == 14
            last = next(following)
            assert (last.name, last.data["code"]) == ("failed", 14)
            text = zlib.decompress(search.read(), 16 + zlib.MAX_WBITS)
            assert json.loads(text.splitlines()[-1])["error"]["code"] == 14
        until(lambda: not alive(server), "the server's end")
        service.ready()
        gate.touch()
        assert first.id is not None
        with alice.open("GET", path, accept=SSE, last_event_id=first.id) as stream:
            *rest_of_it, end = events(stream)
    assert end.name == "end"
    assert data_of([first.data, *(event.data for event in rest_of_it)]) == b"one\ntwo\n"

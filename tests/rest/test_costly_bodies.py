"""Bodies that are small on the wire and much once they are read: none keeps the service from answering others."""

from __future__ import annotations

import gzip
import json
import threading
import time

import pytest

from tests.harness.figures import get
from tests.harness.rest import Rest, rest
from tests.harness.service import Service

HANG_SECONDS = 1.0  # one such body took several, once; a busy machine needs some of this for itself

BOMBS = {
    "numbers": b'{"argv":[' + b"0," * 2_800_000 + b"0]}",
    "objects": b"[" + b"{}," * 1_900_000 + b"{}]",
    "depth": b"[" * 5_700_000,
    "members": b'{"env":{' + b",".join(b'"%d":""' % i for i in range(500_000)) + b"}}",
    "escapes": b'{"command":"' + b"\\n" * 2_800_000 + b'"}',
}


@pytest.mark.parametrize("path", ["/v1/job/schedule", "/v1/batches"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_while_others_are_answered(shared_service: Service, ours: Rest, bomb: str, path: str) -> None:
    body, done = gzip.compress(BOMBS[bomb]), threading.Event()
    statuses: list[int] = []

    def attack() -> None:
        statuses.extend(ours("POST", path, body, content_encoding="gzip").status for _ in range(3))
        done.set()

    thread = threading.Thread(target=attack)
    thread.start()
    slowest = 0.0
    while not done.is_set():
        began = time.monotonic()
        assert get(shared_service.metrics_port, "/livez")[0] == 200
        slowest = max(slowest, time.monotonic() - began)
    thread.join()
    assert statuses == [400] * 3
    assert slowest < HANG_SECONDS


def test_a_login_takes_no_more_than_it_needs(shared_service: Service) -> None:
    stranger = rest(shared_service, login=False)
    body = json.dumps({"username": "alice", "password": "x" * 8192}).encode()
    for data, coding in ((body, ""), (gzip.compress(body), "gzip")):
        answer = stranger("POST", "/v1/auth/login", data, content_encoding=coding)
        assert (answer.status, answer.json["code"]) == (413, 3)


def test_large_bodies_and_answers_that_are_honest_go_through(ours: Rest) -> None:
    jobs = b"\n".join(json.dumps({"command": "true", "env": {"A": "x" * 9000}}).encode() for _ in range(20))
    answer = ours("POST", "/v1/batches", jobs, content_type="application/x-ndjson")
    assert (answer.status, answer.json["jobCount"]) == (200, 20)
    for _ in range(30):
        ours.submit("true")
    assert len(ours("GET", "/v1/batches?page_size=30").json["batches"]) == 30


def test_a_query_has_so_many_parameters_and_no_more(ours: Rest) -> None:
    answer = ours("GET", "/v1/batches?" + "a&" * 5000)
    assert (answer.status, answer.violations) == (400, ["query"])

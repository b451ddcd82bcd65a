"""The benchmarks themselves, in their quick form: that they run and what they print, never how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jobworker.v1 import query_pb2
from tests.bench import __main__ as command
from tests.bench.caller import Caller, CallFailedError
from tests.bench.row import Goal, Row
from tests.bench.stream import STREAM_LOGS
from tests.bench.unary import HEALTH
from tests.harness.service import Api, Service

GET_BATCH = "/jobworker.v1.JobQueryService/GetBatch"


def test_quick_measures_come_out_as_rows_for_programs(tmp_path: Path) -> None:
    names = ["unary", "latency", "others", "stored"]
    found = tmp_path / "rows.json"
    arguments = [sys.executable, "-m", "tests.bench", "--quick", "--only", *names, "--json", str(found)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert set(Counter(row["measure"] for row in rows)) == set(names)
    for row in rows:
        assert isinstance(row["value"], int | float), row
        assert row["value"] >= 0, row
        assert row["unit"], row
        assert row["name"] in done.stdout
        if row["floor"]:
            assert row["ratio"] == pytest.approx(row["value"] / row["floor"])
            assert row["floor_is"], row
        assert (row["met"] is None) == (row["goal"] is None), row
    assert len({row["name"] for row in rows}) == len(rows)


def test_a_measure_that_fails_is_said_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_run: object) -> object:
        yield Row("a first figure", 1, "ms")
        raise AssertionError("the service ended")

    def works(_run: object) -> object:
        yield Row("a second figure", 2, "ms")

    monkeypatch.setattr(command, "MEASURES", {"one": fails, "other": works})
    assert not command.measured(["one", "other"], quick=True)
    said = capsys.readouterr()
    assert "a first figure: 1 ms" in said.out
    assert "one was not measured whole" in said.out
    assert "a second figure: 2 ms" in said.out
    assert "the service ended" in said.err


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("", 4, "/s", 10, "", Goal(">=", 0.4)), True),
        (Row("", 3, "/s", 10, "", Goal(">=", 0.4)), False),
        (Row("", 6, "ms", 1, "", Goal("<=", 6)), True),
        (Row("", 7, "ms", 1, "", Goal("<=", 6)), False),
        (Row("", 7, "ms", 100, "", Goal("<=", 6, absolute=True)), False),
        (Row("", 5, "ms", None, "", Goal("<=", 6, absolute=True)), True),
        (Row("", 5, "ms", None, "", Goal("<=", 6)), None),
        (Row("", 5, "ms", 1), None),
    ],
)
def test_a_goal_is_of_the_ratio_or_of_the_value(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_the_bare_client_keeps_many_calls_in_flight_and_loses_none(shared_service: Service, alice: Api) -> None:
    with Caller(shared_service, alice.token) as caller:
        answers = list(caller.many(HEALTH, [b""] * 500, in_flight=64))
    assert answers == [b"\x08\x01"] * 500  # SERVING
    assert caller.cpu_seconds > 0


def test_the_bare_client_follows_logs_of_many_frames_to_their_ends(shared_service: Service, alice: Api) -> None:
    correlation_id = alice.submit("seq 200000")
    request = query_pb2.StreamLogsRequest(correlation_id=correlation_id).SerializeToString()
    logs = [bytearray(), bytearray()]
    with Caller(shared_service, alice.token) as caller:
        caller.follow(
            STREAM_LOGS, [request] * 2, lambda n, message: logs[n].extend(query_pb2.LogChunk.FromString(message).data)
        )
    assert logs[0] == logs[1] == b"".join(b"%d\n" % n for n in range(1, 200001))


def test_the_bare_client_raises_what_a_call_failed_with(shared_service: Service, alice: Api) -> None:
    with Caller(shared_service, alice.token) as caller, pytest.raises(CallFailedError, match="grpc-status"):
        caller.one(GET_BATCH, query_pb2.GetBatchRequest(correlation_id="no id").SerializeToString())

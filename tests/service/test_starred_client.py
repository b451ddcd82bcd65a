"""A client that knows nothing but the oldest fields of the interface works in full, on a running batch too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import timestamp_pb2

from tests.harness.service import Service

# The interface's first fields, which never change: services, names and numbers as a client of theirs has them.
PROTO = """
syntax = "proto3";
package jobworker.v1;
import "google/protobuf/timestamp.proto";
service AuthService { rpc Login(LoginRequest) returns (LoginResponse); }
service JobScheduleService { rpc ExecuteJob(JobRequest) returns (JobResponse); }
service JobQueryService { rpc SearchJob(SearchJobRequest) returns (stream SearchJobResponse); }
message LoginRequest { string username = 1; string password = 2; }
message LoginResponse { string access_token = 1; }
message JobRequest { string command = 1; }
message JobResponse {
  string correlation_id = 1;
  string result = 2;
  google.protobuf.Timestamp executed_at = 3;
}
message SearchJobRequest { string correlation_id = 1; }
message SearchJobResponse {
  string correlation_id = 1;
  string result = 2;
  string log_output = 3;
  google.protobuf.Timestamp executed_at = 4;
}
"""

CLIENT = """
import json, sys
import grpc
import client_pb2 as pb, client_pb2_grpc as stubs

port, bundle, password, command, go = sys.argv[1:]
read = lambda name: open(f"{bundle}/{name}", "rb").read()
credentials = grpc.ssl_channel_credentials(read("ca.crt"), read("tls.key"), read("tls.crt"))
with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
    token = stubs.AuthServiceStub(channel).Login(pb.LoginRequest(username="alice", password=password)).access_token
    call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 60}
    job = stubs.JobScheduleServiceStub(channel).ExecuteJob(pb.JobRequest(command=command), **call)
    pieces = []
    for piece in stubs.JobQueryServiceStub(channel).SearchJob(
        pb.SearchJobRequest(correlation_id=job.correlation_id), **call
    ):
        if go and not pieces:
            open(go, "w").close()  # only now may the job go on: this was read while it ran
        pieces.append([piece.correlation_id, piece.result, piece.log_output, piece.executed_at.seconds])
print(json.dumps([job.correlation_id, job.result, job.executed_at.seconds, pieces]))
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client: generated code, in processes of its own, since a process takes each name once."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "client.proto").write_text(PROTO)
    (folder / "client.py").write_text(CLIENT)
    well_known = Path(timestamp_pb2.__file__).parents[2]
    include = next(p for p in (well_known, *map(Path, sys.path)) if (p / "grpc_tools/_proto").is_dir())
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{include / 'grpc_tools/_proto'}",
               f"--python_out={folder}", f"--grpc_python_out={folder}", "client.proto"]  # fmt: skip
    subprocess.run(command, check=True, cwd=folder)
    return folder


def run(client: Path, service: Service, command: str, go: str = "") -> Any:
    """What the client prints: [id, result, accepted at, [[id, result, log, started at] of each message]]."""
    arguments = [str(service.port), str(service.pki / "clients/alice"), service.passwords["alice"], command, go]
    found = subprocess.run([sys.executable, "client.py", *arguments], cwd=client, check=False, capture_output=True)
    assert found.returncode == 0, found.stderr.decode()
    return json.loads(found.stdout)


def test_it_reads_a_running_job_from_its_first_word_to_its_last(
    shared_service: Service, client: Path, scratch: Path
) -> None:
    go = scratch / "go"
    command = f"printf 'gr\\303'; until [ -e {go} ]; do sleep 0.01; done; printf '\\274n\\n'; seq 100000; exit 3"
    correlation_id, result, accepted_at, pieces = run(client, shared_service, command, str(go))
    assert (len(correlation_id), result) == (36, "ACCEPTED")
    assert {p[0] for p in pieces} == {correlation_id}
    assert "".join(p[2] for p in pieces) == "grün\n" + "".join(f"{n}\n" for n in range(1, 100_001))
    results = [p[1] for p in pieces]
    assert len(results) > 2
    assert results[:-1] == ["RUNNING"] * (len(results) - 1)
    assert results[-1] == "FAILED (exit code 3)"
    assert all(p[3] >= accepted_at > 0 for p in pieces)


@pytest.mark.parametrize(("command", "log", "words"), [
    ("true", "", "SUCCEEDED (exit code 0)"),
    ("printf no-newline", "no-newline", "SUCCEEDED (exit code 0)"),
    ("printf 'a\\377b'; kill -9 $$", "a\ufffdb", "FAILED (signal 9, SIGKILL)"),
])  # fmt: skip
def test_it_reads_the_end_in_words(shared_service: Service, client: Path, command: str, log: str, words: str) -> None:
    *_, pieces = run(client, shared_service, command)
    assert "".join(p[2] for p in pieces) == log
    assert pieces[-1][1] == words

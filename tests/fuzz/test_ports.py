"""A service on which anything was said to every port, each time the same: it serves on, and has lost nothing by it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.ports import ports, spoiled
from tests.harness.service import Service, running
from tests.harness.wait import until

INPUTS = 100  # on each port, each way
GROWTH_KIB = 200 << 10


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("ports") / "service") as service:
        yield service


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


def test_what_anybody_says_on_any_port_costs_the_service_nothing(own: Service) -> None:
    alice = own.api("alice")
    assert alice.wait(alice.submit("true")).counts.succeeded == 1
    server, executor = own.child("server"), own.child("executor")
    before, kib = descriptors(server), resident_kib(server)
    said = 0
    for number, port in enumerate(ports(own, alice)):
        chance = random.Random(number)
        for seed in port.seeds:
            assert port.answers in port.send(seed), port.name
        for _ in range(INPUTS):
            port.send(spoiled(chance, port.seeds))
            said += 1
        assert alice.log(alice.submit("echo whole")) == b"whole\n", port.name
    assert said >= 15 * INPUTS
    assert (own.child("server"), own.child("executor")) == (server, executor)
    until(lambda: descriptors(server) <= before + 5, f"connections are closed: {before} before")
    assert resident_kib(server) - kib < GROWTH_KIB
    lines = [json.loads(line) for line in (own.folder / "logs" / "service.jsonl").read_text().splitlines()]
    assert [line for line in lines if "incident" in line or line.get("code") in ("INTERNAL", "UNKNOWN")] == []
    assert "Traceback" not in own.output()

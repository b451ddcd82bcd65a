"""A PKI, a misbehaving peer and clients of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobworker.client import Client
from tests.harness.peer import Peer


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client") / "pki"
    for arguments in (["init", "--dir", str(folder)], ["init", "--dir", str(folder.with_name("other"))]):
        subprocess.run([str(Path(sys.executable).with_name("jobpki")), *arguments], check=True, capture_output=True)
    return folder


@pytest.fixture
async def peer(pki: Path) -> AsyncIterator[Peer]:
    async with Peer(pki) as peer:
        yield peer


@pytest.fixture
async def client(peer: Peer, pki: Path) -> AsyncIterator[Client]:
    async with Client(address=peer.address, bundle=pki / "clients/admin") as client:
        yield client

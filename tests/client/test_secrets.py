"""No exception, and nothing that is printed, holds a password or a token; keys that others may read are told."""

from __future__ import annotations

import os
import shutil
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobworker.client import (
    Bundle,
    Client,
    ExposedFileWarning,
    InvalidArgumentError,
    PasswordLogin,
    Token,
    UnauthenticatedError,
)
from tests.harness.peer import Peer

SECRET = "s3cret"
ID = "01940000-0000-7000-8000-000000000000"


def everything(error: BaseException) -> str:
    """What a log, or a debugger, would show of an exception and those before it."""
    text = "".join(traceback.format_exception(error))
    chain: BaseException | None = error
    while chain is not None:
        text += repr(chain) + repr(vars(chain)) + repr(getattr(chain, "object", ""))
        chain = chain.__cause__ or chain.__context__
    return text


@pytest.mark.parametrize("tail", ["\n", "\xa0", "\0", "\r\nx: y", "ä", "\udcff", "\u202e"])
async def test_a_token_that_cannot_be_sent_is_refused_without_its_text(peer: Peer, pki: Path, tail: str) -> None:
    async with Client(address=peer.address, bundle=pki / "clients/admin", token=SECRET + tail) as client:
        for call in (client.get(ID), client.admin.status(), anext(client.follow(ID))):
            with pytest.raises(UnauthenticatedError, match="characters that no token has") as caught:
                await call
            assert SECRET not in everything(caught.value)


async def test_a_password_that_is_no_text_is_refused_without_its_text(peer: Peer, pki: Path) -> None:
    async with Client(address=peer.address, bundle=pki / "clients/admin") as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.login("admin", f"{SECRET}\udcff")
        assert SECRET not in everything(caught.value)
        with pytest.raises(UnauthenticatedError) as wrong:
            await client.login("admin", SECRET)
        assert SECRET not in everything(wrong.value)


def test_what_holds_a_secret_does_not_show_it(pki: Path) -> None:
    bundle = Bundle.read(pki / "clients/admin")
    for holder in (Token(SECRET, datetime.now(UTC)), PasswordLogin("admin", SECRET), bundle):
        assert SECRET not in repr(holder)
        assert "PRIVATE KEY" not in repr(holder)


@pytest.fixture
def copy(pki: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pki / "clients/admin", tmp_path / "my bundle")


@pytest.mark.parametrize(
    ("name", "mode", "may", "mend"),
    [
        ("tls.key", 0o644, "read", "0600"),
        ("tls.key", 0o602, "change", "0600"),
        ("ca.crt", 0o666, "change", "0644"),
        ("tls.crt", 0o646, "change", "0644"),
    ],
)
def test_a_bundle_that_others_may_read_or_change_is_told_with_what_closes_it(
    copy: Path, name: str, mode: int, may: str, mend: str
) -> None:
    (copy / name).chmod(mode)
    with pytest.warns(ExposedFileWarning) as told:
        Bundle.read(copy)
    assert [str(warning.message) for warning in told] == [
        f"{copy / name}: every user of this machine may {may} it (mode {mode:04o}) - run: chmod {mend} '{copy / name}'"
    ]
    assert told[0].filename == __file__
    os.system(str(told[0].message).rpartition("run: ")[2])
    Bundle.read(copy)  # a warning would be an error

"""Each reader of tests/fuzz, a bounded number of times and always with the same bytes; and what broke one once."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.bytes import anything
from tests.fuzz.targets import TARGETS, batch_file, certificate, crl, details, run

_DEEP = b"[" * 3000


def issuer_that_is_no_text() -> bytes:
    """A certificate whose issuer's name is not UTF-8, which its parser finds when it is asked for."""
    return issuer_that_is_no_text_of(certificate())


def issuer_that_is_no_text_of(pem: bytes) -> bytes:
    """The same, of a CRL as well."""
    begin, *lines, end = pem.strip().splitlines()
    der = base64.b64decode(b"".join(lines)).replace(b"jobworker CA", b"j\xe4bworker CA", 1)
    return b"\n".join((begin, base64.b64encode(der), end, b""))


# What was not refused once, but an error of the reader's own.
KEPT: list[tuple[str, Callable[[], bytes]]] = [
    ("the users", lambda: _DEEP),
    ("what was issued", lambda: _DEEP),
    ("the record of the configuration", lambda: _DEEP),
    ("the gaps of a log", lambda: _DEEP),
    ("the gaps of a log", lambda: b"[[1"),
    ("a batch", lambda: batch_file().replace(b'{"end":2', b'{"ond":2')),
    ("a batch", lambda: batch_file()[:-3] + b"x"),
    ("a batch", lambda: batch_file().replace(b'{"end":', b'{"end":' + _DEEP)),
    ("results", lambda: b'{"k":"end","job":' + _DEEP + b"\n"),
    ("finished results", lambda: b'{"k":"final","counts":[]}\n'),
    ("finished results", lambda: b'{"k":"skip","from":0,"to":9,"state":6,"reason":6,"at":4}\n'),
    ("a client's certificate", issuer_that_is_no_text),
    ("certificates", issuer_that_is_no_text),
    ("revocations", lambda: issuer_that_is_no_text_of(crl())),
    ("a refusal", lambda: details().replace(b"\x08\x01", b"\xff\xff")),
]


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_a_refusal_comes_of_any_bytes(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    for good in seeds:
        TARGETS[name].read(good)

    @settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(data=anything(seeds))
    def once(data: bytes) -> None:
        run(TARGETS[name], data)

    once()


@pytest.mark.parametrize(("name", "data"), KEPT)
def test_what_broke_a_reader_once_is_refused(name: str, data: Callable[[], bytes]) -> None:
    assert data() not in TARGETS[name].seeds()
    run(TARGETS[name], data())

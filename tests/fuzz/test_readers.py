"""Each reader of tests/fuzz, a bounded number of times and always with the same bytes; and what broke one once."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.bytes import anything
from tests.fuzz.targets import TARGETS, batch_file, certificate, details, run

_DEEP = b"[" * 3000


def issuer_that_is_no_text() -> bytes:
    """A certificate whose issuer's name is not UTF-8, which its parser finds when it is asked for."""
    der = ssl.PEM_cert_to_DER_cert(certificate().decode())
    return ssl.DER_cert_to_PEM_cert(der.replace(b"jobworker CA", b"j\xe4bworker CA", 1)).encode()


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

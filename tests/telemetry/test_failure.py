"""What exceptions and libraries say in the log: which failure, where, and never what was handled."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from jobworker.server.errors import UnavailableError
from jobworker.server.telemetry.failure import describe, trace
from jobworker.server.telemetry.libraries import take_over
from jobworker.server.telemetry.logging import FILE, Level, open_log
from jobworker.server.telemetry.otlp import Otlp
from tests.harness.wait import until

SECRET = "s3cr3t-of-a-client"


def caught(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped(error: Exception) -> Exception:
    """The same, as the cause of the context of another."""

    def outer() -> None:
        try:
            try:
                raise RuntimeError(SECRET) from error
            except RuntimeError:
                raise KeyError(SECRET)  # noqa: B904
        finally:
            pass

    return caught(outer)


FAILURES = [
    caught(f"Bearer {SECRET}\udca0".encode),
    caught(lambda: f"Bearer {SECRET}".encode() + b"\xa0".decode().encode()),
    caught(lambda: f"{SECRET}\xa0".encode("ascii")),
    caught((SECRET.encode() + b"\xff").decode),
    caught(lambda: int(SECRET)),
    caught(lambda: {}[SECRET]),
    caught(lambda: json.loads(f'{{"{SECRET}"')),
    caught(lambda: jwt.decode(f"{SECRET}\udcff", "x", algorithms=["HS256"])),
    caught(lambda: getattr(object(), SECRET)),
    OSError(SECRET),
    OSError(13, SECRET),
    ExceptionGroup(SECRET, [ValueError(SECRET)]),
    type("Odd", (Exception,), {"__str__": lambda _: SECRET, "__repr__": lambda _: SECRET})(),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_exception_tells_its_class_and_place_and_not_its_text(error: Exception) -> None:
    for one in (error, wrapped(error)):
        text = f"{describe(one)} {trace(one)}"
        assert SECRET not in text
        assert type(error).__qualname__ in text
    assert "test_failure.py" in trace(wrapped(error))


def test_what_an_operator_needs_is_told() -> None:
    missing = caught(lambda: Path("/no/such/file").read_text())
    assert describe(missing) == "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'"
    own = UnavailableError("the service stops", retry_after_seconds=1.0)
    assert describe(own) == "jobworker.server.errors.UnavailableError: the service stops"
    assert describe(None) is None
    text = trace(wrapped(missing))
    assert text.index("FileNotFoundError") < text.index("RuntimeError") < text.index("KeyError")
    assert "in outer" in text


@pytest.fixture
async def lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[Callable[[str], dict[str, Any]]]:
    """Finds the line of a field's value, once it is there; with all that libraries say taken over."""
    log = open_log(tmp_path, level=Level("info"), max_bytes=1 << 20, files=1)
    end = take_over(log.logger, asyncio.get_running_loop())

    def find(text: str) -> dict[str, Any]:
        path = tmp_path / FILE
        found = until(lambda: [x for x in path.read_text().splitlines() if text in x], f"a line with {text}")
        line: dict[str, Any] = json.loads(found[-1])
        return line

    yield find
    end()
    log.writer.close()
    assert SECRET not in (tmp_path / FILE).read_text()
    out, err = capfd.readouterr()
    assert SECRET not in out + err


async def test_a_librarys_words_are_its_template_alone(lines: Callable[[str], dict[str, Any]]) -> None:
    logger = logging.getLogger("grpc._cython.cygrpc")
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("Invalid encoding on %s", SECRET.encode())
    found = lines("grpc._cython.cygrpc")
    assert (found["event"], found["template"]) == ("a library's warning", "Invalid encoding on %s")
    assert found["problem"] == "ValueError"
    assert found["place"].partition(":")[0] == __file__
    logging.getLogger("other").warning(f"it said {SECRET}")  # noqa: G004
    assert lines('"other"')["template"] is None


async def test_failures_that_nobody_awaits_are_told_without_their_words(
    lines: Callable[[str], dict[str, Any]],
) -> None:
    def broken(secret: str) -> None:
        raise LookupError(secret)

    asyncio.get_running_loop().call_soon(broken, SECRET)
    await asyncio.sleep(0)
    assert lines("LookupError")["event"] == "a failure on the event loop"
    thread = threading.Thread(target=int, args=(SECRET,), name="a-thread")
    thread.start()
    thread.join()
    assert lines("a-thread")["problem"] == "ValueError"

    class Falls:
        def __del__(self) -> None:
            raise io.UnsupportedOperation(SECRET)

    Falls()
    gc.collect()
    assert lines("UnsupportedOperation")["event"] == "a failure that nobody could be told"


def test_an_exporters_words_are_without_what_lets_us_in(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@localhost:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}-2",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sink = Otlp(environment)
    assert sink.endpoint == "http://***@localhost:1"
    for said in (
        f"Invalid header value 'Bearer {SECRET}-2'",
        f"no host user:{SECRET}@localhost",
        f"{SECRET}-2 is none",
    ):
        logging.getLogger("opentelemetry.exporter").error(said)
        assert SECRET not in sink._without_secrets(sink._words.last)
    sink.shutdown()

"""The import law: which room may see which, and what else of the house rules can be read from the source."""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import defaultdict
from enum import IntEnum
from pathlib import Path

import pytest

from jobworker.server import model
from jobworker.v1 import job_pb2

ROOT = Path(__file__).parents[1]
LINES_MAX = 400

# Room -> the rooms it may import from. `server/NAME` is the one file server/NAME.py.
LAW: dict[str, set[str]] = {
    "jobpki": set(),
    "v1": set(),
    "client": {"v1"},
    "ctl": {"client", "v1"},
    "executor": set(),
    "server/errors": set(),
    "server/ids": {"server/errors"},
    "server/acceptloop": {"server.telemetry", "server/handshakes", "server/strangers"},
    "server/handshakes": {"server.telemetry"},
    "server/folders": {"jobpki"},
    "server/listening": set(),
    "server/strangers": set(),
    "server/model": {"server/ids"},
    "server/clocks": set(),
    "server/rights": set(),
    "server/slices": {"server/threads"},
    "server/serialthread": {"server/slices", "server/threads"},
    "server/threads": set(),
    "server.config": {"jobpki", "server.store", "server.telemetry", "server/errors", "server/rights"},
    "server.telemetry": {
        "jobpki", "server/acceptloop", "server/errors", "server/ids", "server/listening", "server/model",
        "server/threads",
    },
    "server.identity": {"jobpki", "server/errors", "server/rights", "server/threads"},
    "server.audit": {"jobpki", "server.rpc", "server.telemetry", "server/serialthread"},
    "server/ownlogs": {
        "server.audit", "server.config", "server.identity", "server.rpc", "server.store", "server.telemetry",
        "server/folders", "server/reach",
    },
    "server.core": {"server/model"},
    "server.store": {
        "server.core", "server.telemetry", "server/clocks", "server/errors", "server/ids", "server/model",
        "server/serialthread", "server/slices", "server/threads",
    },
    "server.logs": {
        "server/errors", "server/ids", "server/model", "server/slices", "server/threads", "server.telemetry",
    },
    "server.scheduling": {
        "executor", "server.core", "server.store", "server.telemetry", "server/clocks", "server/errors", "server/ids",
        "server/model", "server/slices",
    },
    "server.rpc": {
        "server.config", "server.scheduling", "server.logs", "server.store", "server.telemetry", "server/errors",
        "server/handshakes", "server/ids", "server/listening", "server/model", "server/slices", "server/strangers",
        "v1",
    },
    "server.rest": {
        "server.rpc", "server.telemetry", "server/acceptloop", "server/errors", "server/listening",
        "server/threads", "v1",
    },
    "server/limits": {
        "server.config", "server.rest", "server.rpc", "server.scheduling", "server.store", "server.telemetry",
        "server/model",
    },
    "server/app": {
        "jobpki", "server.config", "server.identity", "server.logs", "server.rest", "server.rpc", "server.scheduling",
        "server.store", "server.telemetry", "server/clocks", "server/control", "server/credentials", "server/errors",
        "server/folders", "server/datafolder", "server/ids", "server/limits", "server/listeners", "server/model",
        "server/ownlogs", "server/reach", "server/slices", "server/threads",
    },
    "server/datafolder": {
        "server.audit", "server.scheduling", "server.store", "server.telemetry", "server/errors", "server/reach",
    },
    "server/credentials": {
        "jobpki", "server.identity", "server.rpc", "server.telemetry", "server/errors", "server/reach",
        "server/slices",
    },
    "server/listeners": {
        "server.config", "server.identity", "server.rest", "server.rpc", "server.telemetry", "server/limits",
        "server/reach",
    },
    "server/control": {"server.telemetry"},
    "server/reach": {"server.config", "server.scheduling", "server.telemetry"},
    "server/healthcheck": {"jobpki", "server.config"},
    "server/fsck": {"server.store", "server/errors"},
    "server/cli": {
        "executor", "server.config", "server.telemetry", "server/app", "server/control", "server/fsck",
        "jobpki", "server/healthcheck",
        "relay", "server/reach",
        "supervisor",
    },
    "supervisor": {
        "executor", "heldports", "jobpki", "relay", "server.config", "server/cli", "server/folders", "supervision",
    },
    "supervision": {"jobprocesses", "relay", "server/cli", "server/folders"},
    "relay": set(),
    "jobprocesses": {"executor"},
    "heldports": {"server.config", "server/listening"},
}  # fmt: skip
# (file's module, what it imports) -> allowed, of the executor alone: its protocol, and the maker of its zipapp.
EXECUTOR_SEEN_BY = {
    ("jobworker.server.scheduling.local", "jobworker.executor.protocol"),
    ("jobworker.server.scheduling.translate", "jobworker.executor.protocol"),
    ("jobworker.server.scheduling.admission", "jobworker.executor.protocol"),
    ("jobworker.supervisor", "jobworker.executor.bundle"),
    ("jobworker.supervisor", "jobworker.executor.protocol"),  # to tell its death
    ("jobworker.jobprocesses", "jobworker.executor.tree"),  # what is below a process
    ("jobworker.server.cli", "jobworker.executor"),  # where it lies, to start it afresh
}
PACKAGES = {"jobworker", "jobworker.server", "jobworker.executor", "jobworker.server.scheduling", "jobpki"}


def sources(*folders: str) -> dict[str, Path]:
    """Every module by its name; generated ones are not ours."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = sources("service", "pki")


def imports(module: str) -> set[str]:
    """What a module imports, as modules; relative ones too."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{name}.{alias.name}" for alias in node.names} if name in PACKAGES else {name}
    return found


def room(module: str) -> str | None:
    """The room of a module; None for what is not ours, and for the empty packages above the rooms."""
    parts = module.split(".")
    if parts[0] == "jobpki":
        return "jobpki"
    if parts[0] != "jobworker" or len(parts) == 1 or module == "jobworker.server":
        return None
    if parts[1] != "server":
        return parts[1]
    if (ROOT / "service/jobworker/server" / parts[2]).is_dir():
        return f"server.{parts[2]}"
    return f"server/{parts[2]}"


def test_rooms_import_only_what_the_law_allows() -> None:
    broken = defaultdict(set)
    for module in MODULES:
        own = room(module)
        for imported in imports(module):
            other = room(imported)
            if own is not None and other not in (None, own) and other not in LAW[own]:
                broken[module].add(imported)
    assert broken == {}


def test_the_executor_imports_the_standard_library_and_itself() -> None:
    for module in MODULES:
        if room(module) == "executor":
            foreign = {i for i in imports(module) if i.split(".")[0] not in sys.stdlib_module_names}
            assert {i for i in foreign if not i.startswith("jobworker.executor")} == set(), module
            source = MODULES[module].read_text()
            assert "import jobworker" not in source, f"{module}: in a zipapp the package is called executor"
            assert "from jobworker" not in source


def test_few_see_the_executor() -> None:
    seen = {
        (module, imported)
        for module in MODULES
        for imported in imports(module)
        if room(imported) == "executor" and room(module) != "executor"
    }
    assert seen <= EXECUTOR_SEEN_BY


def test_status_codes_are_named_in_one_file_of_the_server() -> None:
    naming = {
        module
        for module, path in MODULES.items()
        # OpenTelemetry has something of that name too.
        if re.search(r"(?<!from opentelemetry.trace import )\bStatusCode\b|\bcode_pb2\b", path.read_text())
        and module.startswith("jobworker.server")
    }
    assert naming == {"jobworker.server.rpc.status"}


def test_clients_work_without_the_servers_libraries() -> None:
    """The base install has no extra `server`."""
    server_only = {"uvloop", "pydantic", "pydantic_settings", "structlog", "jwt", "inotify_simple", "grpc_health",
                   "grpc_reflection", "grpc_channelz", "aiohttp", "prometheus_client", "opentelemetry"}  # fmt: skip
    for module in MODULES:
        if room(module) in {"client", "ctl", "jobpki"}:
            assert not {i.split(".")[0] for i in imports(module)} & server_only, module


def test_files_are_short() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in [*MODULES.values(), *sources("tests").values()]}
    assert {str(path): size for path, size in sizes.items() if size > LINES_MAX} == {}
    assert statistics.median(sizes.values()) < LINES_MAX / 2


def test_every_file_begins_with_what_it_is() -> None:
    assert [m for m, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize(("ours", "theirs"), [
    (model.JobState, job_pb2.JobState), (model.EndReason, job_pb2.EndReason), (model.LogStream, job_pb2.LogStream),
    (model.OutputMode, job_pb2.OutputMode), (model.BatchState, job_pb2.BatchState),
])  # fmt: skip
def test_the_models_numbers_are_those_of_the_interface(ours: type[IntEnum], theirs: object) -> None:
    values = dict(theirs.items())  # type: ignore[attr-defined]
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", ours.__name__).upper() + "_"
    assert values.pop(f"{prefix}UNSPECIFIED") == 0
    assert {f"{prefix}{member.name}": member.value for member in ours} == values

"""A real grpc-gateway in front of the service, generated from the same protos: what REST should look like.

It is built once, see gobuild.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources, util
from pathlib import Path

from tests.harness import gobuild
from tests.harness.toolcache import cached, scratch

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "service"
MAIN = Path(__file__).with_name("main.go")
PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
    "protoc-gen-grpc-gateway": "github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway@v2.33.0",
}
GATEWAY = "github.com/grpc-ecosystem/grpc-gateway/v2@v2.33.0"


def build() -> Path:
    """The program, built if it has not been for these protos and versions."""
    protos = sorted((SOURCES / "jobworker/v1").glob("*.proto"))
    parts = [*(p.read_bytes() for p in (*protos, MAIN)), repr((PLUGINS, GATEWAY)).encode()]
    program = cached("gateway", *parts)
    if not program.exists():
        bin_folder = _plugins()
        with scratch() as folder:
            _generate(folder, bin_folder, [str(p.relative_to(SOURCES)) for p in protos])
            (folder / "main.go").write_bytes(MAIN.read_bytes())
            (folder / "go.mod").write_text("module gateway\n\ngo 1.25\n")
            gobuild.run(["go", "get", GATEWAY], cwd=folder)
            gobuild.compiled(folder, program)
    return program


@contextlib.contextmanager
def running(*, grpc_port: int, bundle: Path) -> Iterator[int]:
    """A gateway that calls the service with a client's bundle; the port of its plain HTTP."""
    files = [bundle / name for name in ("ca.crt", "tls.crt", "tls.key")]
    with subprocess.Popen([build(), f"127.0.0.1:{grpc_port}", *files], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def _plugins() -> Path:
    folder = cached("gateway-plugins", repr(PLUGINS).encode())
    for name, source in PLUGINS.items():
        if not (folder / name).exists():
            gobuild.run(["go", "install", source], GOBIN=str(folder))
    return folder


def _generate(folder: Path, bin_folder: Path, protos: list[str]) -> None:
    common = util.find_spec("google.api")
    assert common is not None
    assert common.submodule_search_locations
    google = Path(next(iter(common.submodule_search_locations))).parents[1]
    options = [f"M{proto}=gateway/jobworker/v1" for proto in protos]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCES}", f"-I{google}",
               f"-I{resources.files('grpc_tools') / '_proto'}"]  # fmt: skip
    for plugin in ("go", "go-grpc", "grpc-gateway"):
        command += [f"--{plugin}_out={','.join(['module=gateway', *options])}:{folder}"]
    gobuild.run([*command, *protos], PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}")

"""Hatchling build hook: generates the Python code of `service/jobworker/v1/*.proto` beside the protos.

Also a script (`python build_protos.py`), for a checkout whose protos changed. The generated files are git-ignored.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources, util
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # as a script, hatchling is not needed
    BuildHookInterface = object

ROOT = Path(__file__).parent
SOURCES = ROOT / "service"


def generate() -> None:
    """Runs protoc over every proto; a warning or an error ends the build."""
    common = util.find_spec("google.api")
    if common is None or not common.submodule_search_locations:
        raise RuntimeError("google/api protos are missing: install googleapis-common-protos")
    google = Path(next(iter(common.submodule_search_locations))).parents[1]
    protos = sorted(str(p.relative_to(SOURCES)) for p in (SOURCES / "jobworker/v1").glob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{SOURCES}",
        f"-I{google}",
        f"-I{resources.files('grpc_tools') / '_proto'}",
        f"--python_out={SOURCES}",
        f"--grpc_python_out={SOURCES}",
        f"--mypy_out=quiet:{SOURCES}",
        f"--mypy_grpc_out=quiet:{SOURCES}",
        # With the comments, which the generated code leaves out: /openapi.json describes the interface with them.
        "--include_source_info",
        f"--descriptor_set_out={SOURCES / 'jobworker/v1/comments.binpb'}",
        *protos,
    ]
    # protoc finds its plugins (protoc-gen-mypy) on PATH: beside this interpreter, where no environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


class ProtoBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Called by hatchling before each build, editable ones too."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        generate()


if __name__ == "__main__":
    generate()

"""Prometheus' own programs, `prometheus`, `promtool`, `alertmanager`, `amtool`, `node_exporter`: from the packages of a
Debian newer than this machine's, unpacked beside it and never installed.

They are kept in a cache outside of the checkout. The mirror is the one that the machine's own apt settings name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.harness.toolcache import CACHE, scratch

SUITE = "trixie"
PACKAGES = ("prometheus", "promtool", "prometheus-alertmanager", "prometheus-node-exporter")
PROGRAMS = {
    "prometheus": "usr/bin/prometheus",
    "promtool": "usr/bin/promtool",
    "alertmanager": "usr/bin/prometheus-alertmanager",
    "amtool": "usr/bin/amtool",
    "node_exporter": "usr/bin/prometheus-node-exporter",
}
# Debian's alertmanager reads these from where the package would have them, /usr/share/prometheus/alertmanager.
TEMPLATES = "usr/share/prometheus/alertmanager"
APT = Path("/etc/apt")


@cache
def prometheus_programs() -> Path:
    """The folder that holds them, by their upstream names. The first call on a machine takes some seconds."""
    folder = CACHE / f"prometheus-{SUITE}-2"
    if not folder.exists():
        with scratch() as work:
            made = _unpack(work)
            try:
                made.rename(folder)
            except OSError:  # somebody else made it meanwhile
                assert folder.exists()
    return folder


def _unpack(work: Path) -> Path:
    for name in ("lists/partial", "cache/archives/partial", "root", "programs"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb {_mirror()} {SUITE} main\n")
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={work}/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
           "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache",
           "-o", "Dir::State::status=/dev/null", "-o", "APT::Sandbox::User="]  # fmt: skip
    _run([*apt, "update"], work)
    _run([*apt, "download", *PACKAGES], work)
    for package in work.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(work / "root")], work)
    for name, path in PROGRAMS.items():
        shutil.move(work / "root" / path, work / "programs" / name)
        _run([str(work / "programs" / name), "--version"], work)
    shutil.move(work / "root" / TEMPLATES, work / "programs" / "templates")
    return work / "programs"


def _mirror() -> str:
    """Of Debian's main archive, as one of the two forms of sources.list(5) has it."""
    for path in (APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))):
        text = path.read_text() if path.is_file() else ""
        found = re.search(r"^(?:URIs: *|deb (?:\[[^]]*\] )?)(\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
        if found:
            return found[1]
    raise AssertionError(f"no mirror of Debian in {APT}")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

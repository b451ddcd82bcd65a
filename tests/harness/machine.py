"""A Debian with a live systemd, in a container of systemd-nspawn, to install the service on as its docs tell."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.harness.toolcache import cached, scratch
from tests.harness.wait import children, until

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "ca-certificates")
SOURCES = "/root/jobworker"
BOOT_SECONDS = 120.0
# What pip needs to reach its index from there as from here.
SETTINGS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")


class Machine:
    """What `running` gives: booted, with this checkout at SOURCES."""

    def __init__(self, root: Path, console: Path) -> None:
        self._root = root
        self._console = console
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}  # of every command

    def boot(self) -> None:
        """Starts it, and waits until it has started everything."""
        environment = dict(os.environ)
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "0"  # as this kernel was set up
        # Without a systemd out here, there is nobody to register with. The network is this machine's.
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={self._root}"]
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                [*command, f"--machine=jobworker-{os.getpid()}"],
                env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        try:
            until(self._is_up, "systemd", BOOT_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._console.read_text(errors='replace')[-4000:]}") from error

    def shut_down(self) -> None:
        """In order, as a machine is shut down; with force if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def run(self, script: str) -> str:
        """Runs a script of bash as root, in SOURCES, and returns what it printed; a failure fails the test."""
        done = self._run(script)
        assert done.returncode == 0, f"{script}: {done.returncode}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def journal(self) -> str:
        """The last that the units and systemd said of them."""
        return self._run("journalctl --no-pager --lines=40 --unit='jobworker*'").stdout

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the machine ended with {self._process.returncode}"
        return self._run("systemctl is-system-running").stdout.strip() in {"running", "degraded"}

    def _run(self, script: str) -> subprocess.CompletedProcess[str]:
        assert self._process is not None
        # Its one child is the machine's first process; before there is one, this fails.
        targets = [f"--target={pid}" for pid in children(self._process.pid)]
        enter = ["nsenter", *targets, "--mount", "--uts", "--ipc", "--pid"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        pip = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
        own = [f"{name}={value}" for name, value in self.environment.items()]
        return subprocess.run(
            [*enter, "env", "-i", path, "HOME=/root", "LANG=C.UTF-8", *pip, *own,
             "bash", "-euc", f"cd {SOURCES}; {script}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Machine]:
    """A new one, whose files are in the folder and go with it."""
    root, upper, work = folder / "root", folder / "upper", folder / "work"
    for each in (root, upper, work):
        each.mkdir(parents=True)
    layers = f"lowerdir={_debian()},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
    machine = Machine(root, folder / "console")
    try:
        for name in SETTINGS:
            if Path(name).exists():
                shutil.copy(name, f"{root}{name}")
        _copy_sources(Path(f"{root}{SOURCES}"))
        machine.boot()
        yield machine
    finally:
        machine.shut_down()
        subprocess.run(["umount", "--recursive", str(root)], check=True)


def _debian() -> Path:
    kept = cached(f"debian-{SUITE}", " ".join(PACKAGES).encode())
    if not kept.exists():
        with scratch() as folder:
            made = folder / "root"
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"debootstrap: {done.stdout[-2000:]}{done.stderr}"
            made.rename(kept)
    return kept


def _copy_sources(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():  # one that was deleted is listed until that is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)

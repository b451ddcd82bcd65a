"""Makes the zipapp: the executor in one file that any python3 (3.9 or later) runs. Same sources, same bytes; one that
runs can copy itself."""

import fcntl
import os
import zipfile
from typing import BinaryIO, Callable, Dict

NAME = "executor.pyz"
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file knows
_MAIN = "import sys\n\nfrom executor.main import main\n\nsys.exit(main())\n"


def build(target: str) -> None:
    """Writes the file whole or not at all. Run it as `python3 -I -S TARGET`."""
    half = f"{target}.{os.getpid()}"
    if os.path.lexists(half):
        os.unlink(half)  # of a run that was cut off
    try:
        # New, and for nobody else to write from its first moment, whatever the umask.
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            _write(file)
            os.fchmod(file.fileno(), 0o644)
        os.replace(half, target)
    except BaseException:
        if os.path.exists(half):
            os.unlink(half)
        raise


def build_sealed() -> int:
    """The same in memory, as a descriptor that nobody can change it by; inheritable. Run it as `python3 -I -S
    /proc/self/fd/N`."""
    fd = os.memfd_create(NAME, os.MFD_ALLOW_SEALING)
    with open(os.dup(fd), "wb") as file:
        _write(file)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _write(target: BinaryIO) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as bundle:
        for name, text in sorted(_sources().items()):
            _add(bundle, name, text)


def copy_to(folder: str, *, say: Callable[[str], None]) -> int:
    """Puts the zipapp into a folder, for an image that has a python3 and no executor; returns the exit status."""
    target = os.path.join(folder, NAME)
    try:
        build(target)
    except OSError as error:
        say(f"{target}: {error.strerror or error}")
        return 1
    say(f"wrote {target}")
    return 0


def _sources() -> Dict[str, str]:
    """Names in the zipapp and what they hold, from the folder or the zipapp that this runs from."""
    package = os.path.dirname(os.path.abspath(__file__))
    zipped = os.path.dirname(package)
    if os.path.isfile(zipped):
        with zipfile.ZipFile(zipped) as bundle:
            return {name: bundle.read(name).decode() for name in bundle.namelist()}
    sources = {"__main__.py": _MAIN}
    for name in os.listdir(package):
        if name.endswith(".py"):
            with open(os.path.join(package, name), encoding="utf-8") as file:
                sources[f"executor/{name}"] = file.read()
    return sources


def _add(bundle: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, wherever it is made
    bundle.writestr(entry, text)

"""Jobs cannot reach the service's secrets, files or processes, and start clean however the service was started."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Api, Service, running
from tests.harness.wait import alive, children, until

MARKS = {"JOBWORKER_CORRELATION_ID", "JOBWORKER_JOB_INDEX", "TRACEPARENT"}
MINIMUM = {"PATH", "HOME", "LANG"}
SECRETS = ("PRIVATE KEY", "$argon2id$", "top secret output", "the words of another")


def run(api: Api, *argv: str, **request: Any) -> str:
    """What one job prints."""
    batch = api.submit(schedule_pb2.JobRequest(argv=argv, **request))
    api.wait(batch)
    return api.log(batch).decode(errors="replace")


def python(api: Api, program: str, *arguments: str, **request: Any) -> Any:
    """What a Python program in a job prints, as JSON."""
    output = run(api, sys.executable, "-I", "-S", "-c", program, *arguments, **request)
    try:
        return json.loads(output)
    except ValueError:
        raise AssertionError(output) from None


@pytest.fixture(autouse=True)
def isolated(shared_service: Service) -> None:
    """The machines that test this have namespaces; a service without them would pass for the wrong reason."""
    assert "isolation: namespaces" in shared_service.output()


@pytest.fixture
def unharmed(shared_service: Service, alice: Api) -> Iterator[None]:
    """The service is as well after the test as before, with the same processes."""
    before = service_pids(shared_service)
    yield
    assert service_pids(shared_service) == before
    assert all(alive(pid) for pid in before)
    assert run(alice, "echo", "fine") == "fine\n"


def service_pids(service: Service) -> list[int]:
    """The supervisor, the server, and both processes of the executor."""

    def executor() -> list[int]:
        outer = service.child("executor")
        return [outer, *children(outer)[:1]]

    return [service.pid, service.child("server"), *until(lambda: len(e := executor()) == 2 and e, "the executor")]


# What it cannot reach

TRY_FILES = """
import json, os, sys
found = {}
for root in sys.argv[1:]:
    seen = []
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            seen.append(os.path.join(folder, name))
    errors = []
    for name in ("ca/ca.key", "auth/token.key", "auth/users.json", "server/tls.key", "service.jsonl", "lock"):
        try:
            open(os.path.join(root, name)).read()
        except OSError as e:
            errors.append(type(e).__name__)
        else:
            seen.append(name)
    try:
        open(os.path.join(root, "mine"), "w").close()
    except OSError as e:
        errors.append(type(e).__name__)
    found[root] = [os.path.isdir(root), seen]
print(json.dumps(found))
"""


@pytest.mark.usefixtures("unharmed")
def test_the_services_folders_are_not_there_for_a_job(shared_service: Service, alice: Api) -> None:
    alice.wait(alice.submit("echo the words of another"))
    running_batch = alice.submit("echo top secret output; sleep 600")
    assert next(alice.follow(running_batch)).data
    folders = [str(shared_service.folder / name) for name in ("data", "logs", "pki", "run")]
    assert all(os.listdir(folder) for folder in folders)
    assert python(alice, TRY_FILES, *folders) == {folder: [False, []] for folder in folders}
    alice.cancel(running_batch)


@pytest.mark.usefixtures("unharmed")
def test_no_other_way_leads_to_the_folders(shared_service: Service, alice: Api) -> None:
    alice.wait(alice.submit("echo the words of another"))
    root = shared_service.folder
    names = " ".join(str(root / name) for name in ("data", "logs", "pki", "run"))
    output = run(alice, "sh", "-c", f"""
        umount -l {names}; umount -R {root}/pki; mount -t tmpfs none /mnt; mount --bind / /mnt
        for link in /proc/*/root /proc/*/cwd; do cat $link{root}/pki/*/*; done
        nsenter -t 1 -m cat {root}/pki/auth/token.key; nsenter -t {shared_service.pid} -a cat {root}/pki/auth/token.key
        unshare -rm sh -c 'umount -l {root}/pki; cat {root}/pki/auth/token.key'
        ln -s {root}/pki/auth/token.key /tmp/link-of-a-job; cat /tmp/link-of-a-job; rm /tmp/link-of-a-job
        grep -rl argon2id {root}
        mknod /tmp/disk-of-a-job b 8 0; cat /tmp/disk-of-a-job; chroot / true; true
        echo reached the end""")  # fmt: skip
    assert output.endswith("reached the end\n")
    assert not [secret for secret in SECRETS if secret in output]
    assert "users.json" not in output


TRY_PROCESSES = """
import json, os, signal, sys
found = {"visible": [], "signalled": [], "read": [], "traced": []}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1:]):
    # Pids of the machine name something else here, or nothing; this very process, perhaps.
    if pid == os.getpid():
        continue
    try:
        with open(f"/proc/{pid}/cmdline") as f:
            if "jobworker" in f.read():
                found["visible"].append(pid)
    except OSError:
        pass
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        found["visible"].append(int(name))
for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP):
    for pid in map(int, sys.argv[1:]):
        if pid in (1, os.getpid()):
            continue
        try:
            os.kill(pid, number)
            found["signalled"].append([pid, number])
        except ProcessLookupError:
            pass
for name in ("environ", "mem", "maps", "stack", "fd/0", "fd/3", "root/etc/passwd", "cwd/etc/passwd"):
    try:
        with open(f"/proc/1/{name}", "rb") as f:
            f.read(1)
        found["read"].append(name)
    except OSError:
        pass
for fd in range(64):  # that there are some, a job of root may see; not what they are
    for act in (os.readlink, os.stat):
        try:
            act(f"/proc/1/fd/{fd}")
            found["read"].append(fd)
        except OSError:
            pass
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
for request in (PTRACE_ATTACH, PTRACE_SEIZE):
    if libc.ptrace(request, 1, 0, 0) == 0:
        found["traced"].append(request)
try:
    if hasattr(os, "pidfd_open"):
        fd = os.pidfd_open(1)
        if libc.syscall(438, fd, 3, 0) >= 0:  # pidfd_getfd(2)
            found["traced"].append("pidfd_getfd")
except OSError:
    pass
print(json.dumps(found))
"""


@pytest.mark.usefixtures("unharmed")
def test_a_job_sees_signals_and_traces_none_of_the_services_processes(shared_service: Service, alice: Api) -> None:
    pids = [str(pid) for pid in service_pids(shared_service)]
    found = python(alice, TRY_PROCESSES, *pids)
    assert found == {"visible": [], "signalled": [], "read": [], "traced": []}


@pytest.mark.usefixtures("unharmed")
def test_killing_everything_ends_nothing_but_the_jobs(shared_service: Service, alice: Api) -> None:
    pids = service_pids(shared_service)
    batch = alice.submit(f"kill -9 {' '.join(map(str, pids))}; kill -9 -- -1; echo still here")
    assert alice.wait(batch).counts.lost == 0


@pytest.mark.usefixtures("unharmed")
def test_no_signal_of_a_job_reaches_the_executor(alice: Api) -> None:
    """Nobody in its namespace can kill its PID 1 (pid_namespaces(7)), nor may a job ask it to stop."""
    batch = alice.submit("for n in $(seq 1 64); do kill -$n 1; done; sleep 0.2; kill -TERM 1; echo unheard")
    assert alice.wait(batch).counts.succeeded == 1
    assert alice.log(batch).endswith(b"unheard\n")


def test_what_jobs_of_one_executor_share_is_seen_as_jobs_alone(alice: Api) -> None:
    sleeper = alice.submit("exec sleep 600")
    until(lambda: alice.get(sleeper).counts.running, "it runs")
    output = run(alice, "sh", "-c", "cat /proc/[0-9]*/comm")
    assert set(output.split()) <= {"python3", "python", Path(sys.executable).name, "sleep", "cat", "sh", "control"}
    assert "sleep" in output
    alice.cancel(sleeper)


# What it cannot become


def test_a_job_has_no_capabilities_and_no_way_to_some(alice: Api) -> None:
    status = dict(line.split(":", 1) for line in run(alice, "cat", "/proc/self/status").splitlines())
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"].strip() == "1"


@pytest.mark.parametrize("attempt", [
    "mount -t tmpfs none /mnt", "mount -o remount,rw /", "umount -l /proc", "umount /", "mount --bind /etc /mnt",
    "hostname other", "chown 1:1 /etc/hostname", "date -s 2001-01-01", "echo 1 > /proc/sys/kernel/panic",
    "echo b > /proc/sysrq-trigger", "renice -n -5 $$", "mknod /tmp/null-of-a-job c 1 3",
    "echo x > /proc/1/oom_score_adj", "ulimit -Hn unlimited", "chroot / true", "nsenter -t 1 -m true",
])  # fmt: skip
@pytest.mark.usefixtures("unharmed")
def test_what_takes_privileges_is_refused(alice: Api, attempt: str) -> None:
    batch = alice.submit(f"( {attempt} ) >/dev/null 2>&1 || echo refused")
    alice.wait(batch)
    assert alice.log(batch) == b"refused\n"


# How it starts

LOOK = """
import json, os, resource
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
umask = os.umask(0)
print(json.dumps({
    "umask": umask, "ignored": status["SigIgn"].strip(), "blocked": status["SigBlk"].strip(),
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "fds": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
    "env": dict(os.environ), "session": os.getsid(0) == os.getpid() == os.getpgid(0), "cwd": os.getcwd(),
    "badness": int(open("/proc/self/oom_score_adj").read()), "executor": int(open("/proc/1/oom_score_adj").read()),
    "limits": {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")},
    "stdin": os.readlink("/proc/self/fd/0"), "tty": os.isatty(0) or os.isatty(1),
}))
"""


def be_odd() -> None:
    """Makes the service's process as odd as an operator's shell can be."""
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE})
    os.umask(0o077)
    os.nice(5)
    for name, soft in (("CORE", -1), ("NOFILE", 900), ("STACK", 4 << 20), ("FSIZE", 1 << 40), ("AS", 64 << 30)):
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        resource.setrlimit(number, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("100")


@pytest.fixture(scope="module")
def looks(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a job sees of itself, without and with limits: in a usual service, and in one that was started oddly."""
    extra = os.open("/dev/zero", os.O_RDONLY)
    odd = _Odd(tmp_path_factory.mktemp("odd") / "service")
    try:
        odd.start(preexec_fn=be_odd, pass_fds=(extra,))
        limited = job_pb2.Limits(processes=100_000)
        return [
            python(api, LOOK, limits=limits) for api in (shared_service.api(), odd.api()) for limits in (None, limited)
        ]
    finally:
        odd.stop()
        os.close(extra)


class _Odd(Service):
    """A service with more in its environment than it needs."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "SECRET_OF_THE_SERVICE": "hush", "LD_LIBRARY_PATH": "/no", "HOME": "/no"}


WAYS = pytest.mark.parametrize("way", range(4), ids=["usual", "usual, limited", "odd", "odd, limited"])


@WAYS
def test_a_job_starts_with_usual_signals_umask_and_priority(looks: list[dict[str, Any]], way: int) -> None:
    look = looks[way]
    # Python ignores SIGPIPE and SIGXFSZ itself; here it is the job.
    own = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert int(look["ignored"], 16) & ~own == 0
    assert int(look["blocked"], 16) == 0
    assert look["umask"] == 0o022
    assert look["session"]
    assert not look["tty"]


def test_a_job_has_not_even_an_ignored_sigpipe(alice: Api) -> None:
    status = dict(line.split(":", 1) for line in run(alice, "cat", "/proc/self/status").splitlines())
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0


@WAYS
def test_a_job_has_no_descriptors_but_its_three(looks: list[dict[str, Any]], way: int) -> None:
    assert looks[way]["fds"] == [0, 1, 2]
    assert looks[way]["stdin"] == "/dev/null"


@WAYS
def test_a_jobs_environment_is_the_minimum_and_the_marks(looks: list[dict[str, Any]], way: int) -> None:
    env = looks[way]["env"]
    assert set(env) - {"LC_CTYPE"} == MINIMUM | MARKS
    assert env["LANG"] == "C.UTF-8"
    assert "/usr/bin" in env["PATH"].split(":")
    assert env["JOBWORKER_JOB_INDEX"] == "0"
    version, trace, span, flags = env["TRACEPARENT"].split("-")
    assert (version, len(span), len(flags)) == ("00", 16, 2)
    assert trace == env["JOBWORKER_CORRELATION_ID"].replace("-", "")


@WAYS
def test_a_job_is_killed_before_the_executor_when_memory_is_short(looks: list[dict[str, Any]], way: int) -> None:
    assert looks[way]["badness"] > looks[way]["executor"]


def test_a_job_has_the_same_limits_whatever_the_services_own_were(looks: list[dict[str, Any]]) -> None:
    assert looks[2]["limits"] == looks[0]["limits"]
    assert looks[3]["limits"] == looks[1]["limits"]
    assert looks[0]["limits"]["RLIMIT_CORE"][0] == 0


def test_a_job_is_as_nice_as_any(looks: list[dict[str, Any]]) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert [look["nice"] for look in looks[:2]] == [usual, usual]
    # To become less nice takes CAP_SYS_NICE or RLIMIT_NICE (setpriority(2)).
    expected = 0 if may_be_less_nice() else 5
    assert [look["nice"] for look in looks[2:]] == [expected, expected]


def may_be_less_nice() -> bool:
    """Whether this machine's root may."""
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(5)
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def test_a_requests_environment_is_added_and_the_marks_stay(alice: Api) -> None:
    env = {"GREETING": "hällo\n=x", "PATH": "/bin:/usr/bin", "EMPTY": ""}
    batch = alice.submit(schedule_pb2.JobRequest(argv=["env", "-0"], env=env), schedule_pb2.JobRequest(argv=["env"]))
    alice.wait(batch)
    found = dict(v.split("=", 1) for v in alice.log(batch).decode().split("\0")[:-1])
    assert env.items() <= found.items()
    assert set(found) == MINIMUM | MARKS | {"GREETING", "EMPTY"}
    assert b"JOBWORKER_JOB_INDEX=1\n" in alice.log(batch, 1)


def test_without_isolation_the_service_says_so(tmp_path: Path, scratch: Path) -> None:
    # Work folders where another user than root can go.
    with running(tmp_path / "service", JOBS__ISOLATION="none", PATHS__WORK=str(scratch / "work")) as service:
        assert "isolation: none" in service.output()
        status = run(service.api(), "cat", "/proc/self/status")
        assert "NoNewPrivs:\t1" in status

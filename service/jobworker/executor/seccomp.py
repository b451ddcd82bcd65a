"""A system call filter (seccomp(2)) for jobs, so that none of them can starve the executor, whose user they share.

prlimit(2), sched_setscheduler(2), setpriority(2), ioprio_set(2) and their kin reach every process of the same user that
is in sight, PID 1 included, whatever the capabilities. The filter refuses them (EPERM) where they name a process of the
executor's; on itself and on other jobs a job may use them. Where jobs share a pid namespace with the service
(`strict`), they may use them on themselves alone. Key rings are refused: the kernel's user key ring is one for all.

It knows no policy but this, and nothing of jobs. It is inherited by all that the calling thread starts from then on.
"""

import ctypes
import os
import struct
from typing import Dict, List, NamedTuple, Sequence, Tuple

from . import libc

_SET_MODE_FILTER = 1  # linux/seccomp.h
_FLAG_SPEC_ALLOW = 4  # without it, kernels before 5.16 slow every job down (speculation control)
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h: LD W ABS, JMP JEQ K, JMP JGE K, RET K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000

_PRIO_USER = 2  # sys/resource.h
_IOPRIO_WHO_USER = 3  # linux/ioprio.h
_SOL_SOCKET, _SO_REUSEPORT = 1, 15

# asm/unistd*.h. By audit architecture; the second of a machine is that of its 32-bit programs.
_NUMBERS: Dict[int, Dict[str, int]] = {
    0xC000003E: {  # x86_64
        "kill": 62, "rt_sigqueueinfo": 129,
        "prlimit64": 302, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144,
        "sched_setaffinity": 203, "sched_setattr": 314, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279,
        "add_key": 248, "request_key": 249, "keyctl": 250, "setsockopt": 54, "tkill": 200, "tgkill": 234,
        "rt_tgsigqueueinfo": 297, "pidfd_open": 434, "io_uring_setup": 425,
    },
    0x40000003: {  # i386
        "kill": 37, "rt_sigqueueinfo": 178,
        "prlimit64": 340, "setpriority": 97, "sched_setparam": 154, "sched_setscheduler": 156,
        "sched_setaffinity": 241, "sched_setattr": 351, "ioprio_set": 289, "migrate_pages": 294, "move_pages": 317,
        "add_key": 286, "request_key": 287, "keyctl": 288, "setsockopt": 366, "tkill": 238, "tgkill": 270,
        "rt_tgsigqueueinfo": 335, "pidfd_open": 434, "io_uring_setup": 425, "socketcall": 102,
    },
    0xC00000B7: {  # aarch64
        "kill": 129, "rt_sigqueueinfo": 138,
        "prlimit64": 261, "setpriority": 140, "sched_setparam": 118, "sched_setscheduler": 119,
        "sched_setaffinity": 122, "sched_setattr": 274, "ioprio_set": 30, "migrate_pages": 238, "move_pages": 239,
        "add_key": 217, "request_key": 218, "keyctl": 219, "setsockopt": 208, "tkill": 130, "tgkill": 131,
        "rt_tgsigqueueinfo": 240, "pidfd_open": 434, "io_uring_setup": 425,
    },
    0x40000028: {  # arm
        "kill": 37, "rt_sigqueueinfo": 178,
        "prlimit64": 369, "setpriority": 97, "sched_setparam": 154, "sched_setscheduler": 156,
        "sched_setaffinity": 241, "sched_setattr": 380, "ioprio_set": 314, "migrate_pages": 400, "move_pages": 344,
        "add_key": 309, "request_key": 310, "keyctl": 311, "setsockopt": 294, "tkill": 238, "tgkill": 268,
        "rt_tgsigqueueinfo": 363, "pidfd_open": 434, "io_uring_setup": 425,
    },
}  # fmt: skip
_NUMBERS[0xC00000F3] = _NUMBERS[0xC00000B7]  # riscv64: the generic table too
_MACHINES: Dict[str, Tuple[int, ...]] = {
    "x86_64": (0xC000003E, 0x40000003),
    "aarch64": (0xC00000B7, 0x40000028),
    "riscv64": (0xC00000F3,),
}
_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}

_SYS_SETSOCKOPT = 14  # linux/net.h: socketcall(2)


class Test(NamedTuple):
    """A condition on 32 bits of an argument: `high` half or low one; equal to `value`, or not."""

    argument: int
    value: int
    equal: bool = True
    high: bool = False


class Rule(NamedTuple):
    """A call that is refused when all tests hold."""

    call: str
    tests: Sequence[Test]
    error: int = _EPERM


def restrict(*, protected: Sequence[int], strict: bool, keep_ports: bool, threads_change_user: bool = False) -> None:
    """Filters this thread, and all that it starts. `protected`: the executor's processes and threads, as jobs number
    them. `strict`: jobs see other processes of the service too. `keep_ports`: jobs may not share a port that another
    process of this user has bound (SO_REUSEPORT, socket(7)). `threads_change_user`: to that of a job, now and then.

    Raises:
        OSError: the kernel has no filters, or this machine's calls are not known here. Nothing is filtered.
    """
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(_ENOSYS, f"no system call filter is known for {machine}")
    found = rules(protected=protected, strict=strict, keep_ports=keep_ports, threads_change_user=threads_change_user)
    install(assemble(found, _MACHINES[machine]))


def install(program: bytes) -> None:
    """Filters this thread, and all that it starts, by a program of `assemble`.

    Raises:
        OSError: the kernel has no filters.
    """
    array = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a length, and behind its padding a pointer.
    filters = struct.pack("@HP", len(program) // 8, ctypes.addressof(array))
    header = ctypes.create_string_buffer(filters, len(filters))
    number = ctypes.c_uint(_SET_MODE_FILTER)
    if libc.syscall(_SECCOMP[os.uname().machine], number, ctypes.c_uint(_FLAG_SPEC_ALLOW), header) < 0:
        raise libc.last_error("seccomp")


def rules(*, protected: Sequence[int], strict: bool, keep_ports: bool, threads_change_user: bool = False) -> List[Rule]:
    """What is refused; see `restrict`."""
    found: List[Rule] = []

    def refuse(call: str, argument: int, *tests: Test) -> None:
        """Where the argument names somebody who is protected."""
        if strict:
            found.append(Rule(call, (Test(argument, 0, equal=False), *tests)))
        else:
            found.extend(Rule(call, (Test(argument, pid), *tests)) for pid in protected)

    for high in (False, True):  # a new limit: its pointer is not null, in either half
        refuse("prlimit64", 0, Test(2, 0, equal=False, high=high))
    for call in ("sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr", "migrate_pages",
                 "move_pages"):  # fmt: skip
        refuse(call, 0)
    for call in ("setpriority", "ioprio_set"):
        refuse(call, 1)
    found += [Rule("setpriority", (Test(0, _PRIO_USER),)), Rule("ioprio_set", (Test(0, _IOPRIO_WHO_USER),))]
    found += [Rule(call, ()) for call in ("add_key", "request_key", "keyctl")]
    if strict:
        # Landlock's scope keeps signals from the executor's process, but not from its thread that starts the jobs. That
        # one may be their very user for a moment (identity.py), and kill(2) takes a thread's number as well.
        calls = [("tkill", 0), ("tgkill", 1), ("rt_tgsigqueueinfo", 1), ("pidfd_open", 0)]
        calls += [("kill", 0), ("rt_sigqueueinfo", 0)] if threads_change_user else []
        for call, argument in calls:
            found.extend(Rule(call, (Test(argument, pid),)) for pid in protected)
    if keep_ports:
        found.append(Rule("setsockopt", (Test(1, _SOL_SOCKET), Test(2, _SO_REUSEPORT))))
        # These two reach the same by arguments in memory, which a filter cannot see.
        found.append(Rule("socketcall", (Test(0, _SYS_SETSOCKOPT),)))
        found.append(Rule("io_uring_setup", (), _ENOSYS))
    return found


def assemble(found: Sequence[Rule], architectures: Sequence[int]) -> bytes:
    """The program of a filter, for machines of these architectures: struct sock_filter, one after another."""
    code: List[bytes] = [_instruction(_LOAD, _ARCHITECTURE)]
    for architecture in architectures:
        block: List[bytes] = []
        if architecture == 0xC000003E:
            block += [_instruction(_LOAD, _NUMBER), _instruction(_AT_LEAST, _X32, no=1)]
            block += [_instruction(_RETURN, _ERRNO | _ENOSYS)]
        for call, alike in _grouped(found):
            number = _NUMBERS[architecture].get(call)
            if number is not None:
                block += _call(number, alike)
        block.append(_instruction(_RETURN, _ALLOW))
        # A conditional jump spans 255 instructions at the most, the unconditional one (JMP JA) any number.
        code += [_instruction(_EQUAL, architecture, yes=1), struct.pack("=HBBI", 0x05, 0, 0, len(block)), *block]
    # Calls of another architecture are none of this machine's.
    return b"".join([*code, _instruction(_RETURN, _ERRNO | _ENOSYS)])


def _grouped(found: Sequence[Rule]) -> List[Tuple[str, List[Rule]]]:
    by_call: Dict[str, List[Rule]] = {}
    for rule in found:
        by_call.setdefault(rule.call, []).append(rule)
    return list(by_call.items())


def _call(number: int, alike: Sequence[Rule]) -> List[bytes]:
    """Does nothing for other calls than this one."""
    body: List[bytes] = []
    for rule in alike:
        steps: List[bytes] = []
        for test in reversed(rule.tests):
            past = len(steps) + 1  # the steps behind this test, and the return
            jump = {"no": past} if test.equal else {"yes": past}
            offset = _ARGUMENTS + 8 * test.argument + (4 if test.high else 0)
            steps = [_instruction(_LOAD, offset), _instruction(_EQUAL, test.value, **jump), *steps]
        body += [*steps, _instruction(_RETURN, _ERRNO | rule.error)]
    head = [_instruction(_LOAD, _NUMBER), _instruction(_EQUAL, number, yes=1)]
    return [*head, struct.pack("=HBBI", 0x05, 0, 0, len(body)), *body]


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)

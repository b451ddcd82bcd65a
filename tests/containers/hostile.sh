# Run as a job in the executor's container. Each line tries what must be refused; it prints ALLOWED where it is not.
try() {
  what=$1
  shift
  if "$@" >/tmp/hostile.out 2>&1; then echo "ALLOWED $what"; else echo "refused $what"; fi
}
try keys test -e /etc/jobworker/pki
try data test -e /var/lib/jobworker
try logs test -e /var/log/jobworker
try environ cat /proc/1/environ
try memory python3 -c 'open("/proc/1/mem", "rb").read(1)'
try descriptors ls /proc/1/fd
try maps head -c 1 /proc/1/maps
try trace python3 -c '
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(0 if libc.ptrace(16, 1, 0, 0) == 0 else 1)'
try vm_read python3 -c '
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
class V(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
b = ctypes.create_string_buffer(8)
l, r = V(ctypes.addressof(b), 8), V(0x400000, 8)
sys.exit(0 if libc.process_vm_readv(1, ctypes.byref(l), 1, ctypes.byref(r), 1, 0) > 0 else 1)'
try pidfd python3 -c '
import ctypes, os, sys
fd = os.pidfd_open(1)
sys.exit(0 if any(ctypes.CDLL(None).syscall(438, fd, n, 0) >= 0 for n in range(3, 40)) else 1)'
try key cat /run/jobworker/executor.sock.key
try lock cat /run/jobworker/executor.sock.lock
try lock_taken flock -n /run/jobworker/executor.sock.lock true
try unlink rm -f /run/jobworker/executor.sock
try rename mv /run/jobworker/executor.sock /run/jobworker/x
try pose python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/run/jobworker/mine")'
try root_file touch /usr/local/lib/jobworker/x
try zipapp sh -c 'echo x > /usr/local/lib/jobworker/executor.pyz'
try network python3 -c 'import socket; socket.create_connection(("1.1.1.1", 53), 2)'
try server python3 -c 'import socket; socket.create_connection(("server", 50051), 2)'
try interfaces sh -c 'grep -v lo: /proc/net/dev | grep -q :'
try mount python3 -c '
import ctypes, sys
sys.exit(0 if ctypes.CDLL(None).mount(b"t", b"/tmp", b"tmpfs", 0, None) == 0 else 1)'
try namespaces unshare -Urm true
# On each thread of the executor, what starves it: first tried on this process itself, where it must work. What is set is
# what is set already, so that a hole does no harm.
starve='
import ctypes, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
x86 = os.uname().machine == "x86_64"
SCHED_GETATTR, SCHED_SETATTR, IOPRIO_SET = (315, 314, 251) if x86 else (275, 274, 30)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def attributes(pid):
    own = ctypes.create_string_buffer(56)
    call(SCHED_GETATTR, 0, own, 48, 0)
    call(SCHED_SETATTR, pid, own, 0)
def nice(which):
    return lambda pid: os.setpriority(which, pid, os.getpriority(os.PRIO_PROCESS, 0))
act = {
    "limits": lambda pid: resource.prlimit(pid, resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU)),
    "scheduler": lambda pid: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0)),
    "parameters": lambda pid: os.sched_setparam(pid, os.sched_param(0)),
    "attributes": attributes,
    "affinity": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
    "nice": nice(os.PRIO_PROCESS),
    "group": nice(os.PRIO_PGRP),
    "io": lambda pid: call(IOPRIO_SET, 1, pid, 2 << 13 | 4),
}[sys.argv[1]]
def works(pid):
    try:
        act(pid)
    except OSError:
        return False
    return True
threads = list(map(int, os.listdir("/proc/1/task")))
sys.exit(0 if not works(0) or len(threads) < 2 or any(map(works, threads)) else 1)'
try limits python3 -c "$starve" limits
try scheduler python3 -c "$starve" scheduler
try scheduler_parameters python3 -c "$starve" parameters
try scheduler_attributes python3 -c "$starve" attributes
try affinity python3 -c "$starve" affinity
try niceness python3 -c "$starve" nice
try niceness_of_its_group python3 -c "$starve" group
try niceness_of_the_user python3 -c 'import os; os.setpriority(os.PRIO_USER, 0, 0)'
try io_priority python3 -c "$starve" io
try executor_files sh -c '
for file in /proc/1/oom_score_adj /proc/1/autogroup /proc/1/coredump_filter /proc/1/timerslack_ns \
  /proc/1/task/*/oom_score_adj /proc/1/task/*/comm; do
  if echo 1 >"$file"; then exit 0; fi
done
exit 1'
try key_ring python3 -c '
import ctypes, os, sys
number = 250 if os.uname().machine == "x86_64" else 219
sys.exit(0 if ctypes.CDLL(None).syscall(number, 0, -4, 1) >= 0 else 1)'
try add_key python3 -c '
import ctypes, os, sys
number = 248 if os.uname().machine == "x86_64" else 217
sys.exit(0 if ctypes.CDLL(None).syscall(number, b"user", b"name", b"data", 4, -4) >= 0 else 1)'
try root sh -c 'test "$(id -u)" = 0'
try capabilities sh -c 'grep "^Cap" /proc/self/status | grep -qv 0000000000000000'
try new_privileges sh -c 'grep -q "NoNewPrivs:.*0" /proc/self/status'
try oom sh -c 'test "$(cat /proc/self/oom_score_adj)" -le "$(cat /proc/1/oom_score_adj)"'
kill -KILL 1
kill -TERM 1
echo "survived by the executor"

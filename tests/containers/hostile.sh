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
try root sh -c 'test "$(id -u)" = 0'
try capabilities sh -c 'grep "^Cap" /proc/self/status | grep -qv 0000000000000000'
try new_privileges sh -c 'grep -q "NoNewPrivs:.*0" /proc/self/status'
try oom sh -c 'test "$(cat /proc/self/oom_score_adj)" -le "$(cat /proc/1/oom_score_adj)"'
kill -KILL 1
kill -TERM 1
echo "survived by the executor"

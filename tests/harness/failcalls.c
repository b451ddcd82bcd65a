// Lets calls of a process fail, for LD_PRELOAD. The file that FAILCALLS_FILE names holds four 32-bit numbers for each
// call below, in this order: the errno it fails with, how many more times (less than 0: always), how often it has
// failed, and, of posix_spawn, how many threads were in it at the same time at the most. It is mapped when the process starts, so that one that has left its root sees changes too.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RECVMSG, SENDMSG, SEND, SOCKET, PIPE2, EPOLL_CTL, MEMFD_CREATE, POSIX_SPAWN, FORK, MKDIR, PIDFD_OPEN, OPENDIR, POLL,
       FALLOCATE64, CALLS };

struct failure {
  int32_t error, left, failed, most;
};

static struct failure none[CALLS];
static volatile struct failure *failures = none;

__attribute__((constructor)) static void map_file(void) {
  const char *path = getenv("FAILCALLS_FILE");
  int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) failures = at;
  close(fd);
}

static int fails(int call) {
  volatile struct failure *failure = &failures[call];
  if (failure->left == 0) return 0;
  if (failure->left > 0) failure->left--;
  failure->failed++;
  errno = failure->error;
  return 1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  REAL(recvmsg);
  return fails(RECVMSG) ? -1 : real(fd, message, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(sendmsg);
  return fails(SENDMSG) ? -1 : real(fd, message, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
  REAL(send);
  return fails(SEND) ? -1 : real(fd, data, size, flags);
}

int socket(int domain, int type, int protocol) {
  REAL(socket);
  return fails(SOCKET) ? -1 : real(domain, type, protocol);
}

int pipe2(int fds[2], int flags) {
  REAL(pipe2);
  return fails(PIPE2) ? -1 : real(fds, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
  REAL(epoll_ctl);
  return operation != EPOLL_CTL_DEL && fails(EPOLL_CTL) ? -1 : real(epoll, operation, fd, event);
}

int memfd_create(const char *name, unsigned flags) {
  REAL(memfd_create);
  return fails(MEMFD_CREATE) ? -1 : real(name, flags);
}

int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *restrict attributes, char *const argv[restrict], char *const env[restrict]) {
  REAL(posix_spawn);
  static int32_t inside;
  if (fails(POSIX_SPAWN)) return errno;
  int32_t now = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
  if (now > failures[POSIX_SPAWN].most) failures[POSIX_SPAWN].most = now;
  int result = real(pid, path, actions, attributes, argv, env);
  __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
  return result;
}

pid_t fork(void) {
  REAL(fork);
  return fails(FORK) ? -1 : real();
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  return fails(MKDIR) ? -1 : real(path, mode);
}

DIR *opendir(const char *path) {
  REAL(opendir);
  return fails(OPENDIR) ? NULL : real(path);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  REAL(fallocate64);
  return fails(FALLOCATE64) ? -1 : real(fd, mode, offset, length);
}

int poll(struct pollfd *fds, nfds_t count, int timeout) {
  REAL(poll);
  return fails(POLL) ? -1 : real(fds, count, timeout);
}

long syscall(long number, ...) {
  REAL(syscall);
  va_list list;
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long),
       e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  return number == SYS_pidfd_open && fails(PIDFD_OPEN) ? -1 : real(number, a, b, c, d, e, f);
}

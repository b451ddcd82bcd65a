// Shifts the clocks of a process, for LD_PRELOAD. The file that CLOCKSHIFT_FILE names holds two 64-bit numbers of
// nanoseconds: what is added to the clock of the day, and to the clocks that never jump. It is mapped when the process
// starts, so that a change is seen at once, and by a process that has left its root and its environment behind.
//
// Waits until a time of day (sem_timedwait, pthread_cond_timedwait, a futex with FUTEX_CLOCK_REALTIME, ...) are brought
// back to the kernel's clock. Unlike with a true jump, one that has begun is not reckoned anew.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static const volatile int64_t none[2];
static const volatile int64_t *shifts = none;

__attribute__((constructor)) static void map_file(void) {
  const char *path = getenv("CLOCKSHIFT_FILE");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) shifts = at;
  close(fd);
}

static int64_t shift_of(clockid_t clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_TAI:
      return shifts[0];
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
      return shifts[1];
    default:  // of processes and threads
      return 0;
  }
}

static void add(struct timespec *time, int64_t shift) {
  int64_t nanoseconds = (int64_t)time->tv_nsec + shift % SECOND;
  time->tv_sec += shift / SECOND;
  if (nanoseconds < 0) nanoseconds += SECOND, time->tv_sec--;
  if (nanoseconds >= SECOND) nanoseconds -= SECOND, time->tv_sec++;
  time->tv_nsec = nanoseconds;
}

// Of the kernel's clock, from a time as the process sees it.
static const struct timespec *kernel_time(const struct timespec *seen, clockid_t clock, struct timespec *place) {
  if (seen == NULL) return NULL;
  *place = *seen;
  add(place, -shift_of(clock));
  if (place->tv_sec < 0) place->tv_sec = place->tv_nsec = 0;
  return place;
}

// By libc's own function, which asks no kernel; before libc is there to be asked, by the system call.
int clock_gettime(clockid_t clock, struct timespec *time) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real ? real(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
  if (result == 0) add(time, shift_of(clock));
  return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *place) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}

int timespec_get(struct timespec *time, int base) {
  return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, time) == 0 ? base : 0;
}

#define REAL(name) static __typeof__(name) *real; if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
  REAL(sem_timedwait);
  struct timespec place;
  return real(sem, kernel_time(until, CLOCK_REALTIME, &place));
}

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict until) {
  REAL(sem_clockwait);
  struct timespec place;
  return real(sem, clock, kernel_time(until, clock, &place));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
  REAL(pthread_mutex_timedlock);
  struct timespec place;
  return real(mutex, kernel_time(until, CLOCK_REALTIME, &place));
}

// A condition knows its clock, but tells nobody: glibc keeps it in a bit of its own (pthread_condattr_setclock).
static clockid_t clock_of(const pthread_cond_t *condition) {
#ifdef __GLIBC__
  return condition->__data.__wrefs & 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
#else
  return CLOCK_REALTIME;
#endif
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  REAL(pthread_cond_timedwait);
  struct timespec place;
  return real(condition, mutex, kernel_time(until, clock_of(condition), &place));
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict until) {
  REAL(pthread_cond_clockwait);
  struct timespec place;
  return real(condition, mutex, clock, kernel_time(until, clock, &place));
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
  REAL(clock_nanosleep);
  struct timespec place;
  return real(clock, flags, flags & TIMER_ABSTIME ? kernel_time(wanted, clock, &place) : wanted, left);
}

// Some ask the kernel without a function of libc's, for a futex above all.
long syscall(long number, ...) {
  REAL(syscall);
  va_list list;
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long),
       e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  struct timespec place;
  int operation = (int)b & FUTEX_CMD_MASK;
  if (number == SYS_futex && d && (operation == FUTEX_WAIT_BITSET || operation == FUTEX_LOCK_PI)) {
    int is_of_day = operation == FUTEX_LOCK_PI || (b & FUTEX_CLOCK_REALTIME);
    d = (long)kernel_time((const struct timespec *)d, is_of_day ? CLOCK_REALTIME : CLOCK_MONOTONIC, &place);
  }
  long result = real(number, a, b, c, d, e, f);
  if (number == SYS_clock_gettime && result == 0) add((struct timespec *)b, shift_of((clockid_t)a));
  return result;
}

// The yardstick: a loop that runs /bin/true N times, P at a time, each with its output in a file of its own.
// Usage: bare N P FOLDER. It prints the microseconds of CPU that it took itself.
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  int jobs = atoi(argv[1]), parallel = atoi(argv[2]), running = 0;
  char path[4096];
  char *command[] = {"/bin/true", NULL};
  for (int i = 0; i < jobs || running;) {
    if (i < jobs && running < parallel) {
      posix_spawn_file_actions_t actions;
      pid_t pid;
      snprintf(path, sizeof path, "%s/%d.log", argv[3], i++);
      int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      if (fd < 0) return 1;
      posix_spawn_file_actions_init(&actions);
      posix_spawn_file_actions_adddup2(&actions, fd, 1);
      posix_spawn_file_actions_adddup2(&actions, fd, 2);
      if (posix_spawn(&pid, command[0], &actions, NULL, command, environ)) return 1;
      posix_spawn_file_actions_destroy(&actions);
      close(fd);
      running++;
    } else {
      int status;
      if (wait(&status) < 0) return 1;
      running--;
    }
  }
  struct rusage used;
  if (getrusage(RUSAGE_SELF, &used)) return 1;
  printf("%ld\n", (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000L + used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  return 0;
}

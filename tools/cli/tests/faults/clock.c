/* Moves the wall clock of a process by as many seconds as the file named by CLOCK_FILE says, whenever it is asked. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, id, now);
  const char *path = getenv("CLOCK_FILE");
  if (result == 0 && id == CLOCK_REALTIME && path != NULL) {
    FILE *file = fopen(path, "re");
    long seconds = 0;
    if (file != NULL) {
      if (fscanf(file, "%ld", &seconds) == 1) {
        now->tv_sec += seconds;
      }
      fclose(file);
    }
  }
  return result;
}

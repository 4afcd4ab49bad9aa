/* A wall clock that goes on as usual, but ahead of the machine's by as much as the test says.
 *
 * Loaded before all other libraries, this answers gettimeofday(), time() and clock_gettime() for the wall clock.
 * Monotonic clocks go on as they are. The file that FF_TEST_AHEAD names holds one number of 64 bits, in milliseconds. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile uint64_t *shared;

__attribute__((constructor)) static void open_clock(void) {
  const char *path = getenv("FF_TEST_AHEAD");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *shared, PROT_READ, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) {
    perror("FF_TEST_AHEAD");
    abort();
  }
  close(file);
  shared = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *to) {
  int failed = (int)syscall(SYS_clock_gettime, clock, to);
  if (failed || !shared || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
  uint64_t ahead = *shared;
  to->tv_sec += (time_t)(ahead / 1000);
  to->tv_nsec += (long)(ahead % 1000) * 1000000;
  if (to->tv_nsec >= 1000000000) {
    to->tv_sec += 1;
    to->tv_nsec -= 1000000000;
  }
  return 0;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
  (void)zone;
  struct timespec now;
  int failed = clock_gettime(CLOCK_REALTIME, &now);
  to->tv_sec = now.tv_sec;
  to->tv_usec = now.tv_nsec / 1000;
  return failed;
}

time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}

/* The wall clock of a server under test: it stands until the test sets it.
 *
 * Loaded before all other libraries, this answers gettimeofday(), time() and clock_gettime() for the wall clock with
 * the time in the file that FF_TEST_CLOCK names. Monotonic clocks go on as they are: by them the server's
 * own event loop wakes up.
 *
 * The file holds two numbers of 64 bits: milliseconds since 1970-01-01 UTC, and their complement. As long as the two
 * do not fit together somebody is writing. */

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
  const char *path = getenv("FF_TEST_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof *shared, PROT_READ, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) {
    perror("FF_TEST_CLOCK");
    abort();
  }
  close(file);
  shared = mapped;
}

static uint64_t millis(void) {
  for (;;) {
    uint64_t now = shared[0], complement = shared[1];
    if (now == ~complement) return now;
  }
}

/* Before the clock is open the kernel answers. */
static int is_ours(clockid_t clock) {
  return shared && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE);
}

int clock_gettime(clockid_t clock, struct timespec *to) {
  if (!is_ours(clock)) return (int)syscall(SYS_clock_gettime, clock, to);
  uint64_t now = millis();
  to->tv_sec = (time_t)(now / 1000);
  to->tv_nsec = (long)(now % 1000) * 1000000;
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

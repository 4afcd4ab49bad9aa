/* A disk that takes its time: every sync of a file waits as long as the test says.
 *
 * Loaded before all other libraries, this answers fsync() and fdatasync(). The file that FF_TEST_DISK names holds one
 * number of 64 bits, the milliseconds that a sync waits. A wait that is under way ends as soon as the number allows. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile uint64_t *shared;

__attribute__((constructor)) static void open_delay(void) {
  const char *path = getenv("FF_TEST_DISK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *shared, PROT_READ, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) {
    perror("FF_TEST_DISK");
    abort();
  }
  close(file);
  shared = mapped;
}

static void wait_for_the_disk(void) {
  const struct timespec step = {0, 5 * 1000000};
  for (uint64_t waited = 0; shared && waited < *shared; waited += 5) nanosleep(&step, NULL);
}

int fdatasync(int file) {
  wait_for_the_disk();
  return (int)syscall(SYS_fdatasync, file);
}

int fsync(int file) {
  wait_for_the_disk();
  return (int)syscall(SYS_fsync, file);
}

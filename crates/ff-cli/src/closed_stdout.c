/* Rust's standard library replaces a closed stdout by /dev/null, so that writing to it succeeds. This runs earlier: it
   replaces a closed stdout by a file that is open for reading only, which the program refuses. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void mark_closed_stdout(void) {
    if (fcntl(STDOUT_FILENO, F_GETFD) != -1 || errno != EBADF) return;
    int file = open("/dev/null", O_RDONLY);
    /* A closed stdin is the first free descriptor; the standard library replaces it too. */
    if (file == -1 || file == STDOUT_FILENO) return;
    dup2(file, STDOUT_FILENO);
    close(file);
}

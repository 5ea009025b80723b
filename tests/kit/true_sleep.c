/* Preloaded before libfaketime, whose version 0.9.10 answers EINVAL to every absolute sleep on a monotonic clock that it
 * was told to leave alone: Python's time.sleep. Such a sleep is the kernel's here. */
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
}

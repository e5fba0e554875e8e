/* A slow disk for one process: preloaded into the broker, it holds back each write and each sync of a regular file
 * for as many microseconds as the first four bytes of the file SLOW_DISK say at that moment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const volatile uint32_t *microseconds;

__attribute__((constructor)) static void watch(void) {
    const char *path = getenv("SLOW_DISK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *microseconds, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) microseconds = page;
}

static void hold_back(int file) {
    uint32_t wait = microseconds ? *microseconds : 0;
    struct stat about;
    int before = errno;
    if (wait && fstat(file, &about) == 0 && S_ISREG(about.st_mode)) {
        struct timespec pause = {wait / 1000000, (long)(wait % 1000000) * 1000};
        while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {}
    }
    errno = before;
}

#define SLOW(type, name, parameters, ...)                                  \
    type name parameters {                                                 \
        static type(*real) parameters;                                     \
        if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);     \
        hold_back(file);                                                   \
        return real(__VA_ARGS__);                                          \
    }

SLOW(ssize_t, write, (int file, const void *from, size_t size), file, from, size)
SLOW(ssize_t, writev, (int file, const struct iovec *from, int count), file, from, count)
SLOW(ssize_t, pwrite, (int file, const void *from, size_t size, off_t at), file, from, size, at)
SLOW(ssize_t, pwrite64, (int file, const void *from, size_t size, off64_t at), file, from, size, at)
SLOW(ssize_t, pwritev, (int file, const struct iovec *from, int count, off_t at), file, from, count, at)
SLOW(ssize_t, pwritev64, (int file, const struct iovec *from, int count, off64_t at), file, from, count, at)
SLOW(int, fsync, (int file), file)
SLOW(int, fdatasync, (int file), file)

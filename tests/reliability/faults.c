/* Loaded before libc (LD_PRELOAD): lets the N-th call that changes files below a folder fail.
 *
 * Counted: opening for writing, mkdir, link, rename, write, truncate, fsync. Until fault_arm is
 * called, and for other files, all calls are passed on. The count lies in memory that forks share.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ONCE, LASTING, SHORT, KILL };

static long *count;
static char root[PATH_MAX];
static long wanted;
static int number, mode;

__attribute__((constructor)) static void make(void) {
    count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void fault_arm(const char *folder, long nth, int error, int how) {
    strncpy(root, folder, sizeof root - 1);
    wanted = nth, number = error, mode = how, *count = 0;
}

long fault_count(void) { return *count; }

static int below(const char *path) {
    char whole[2 * PATH_MAX];
    if (!*root || !path) return 0;
    if (*path == '/') snprintf(whole, sizeof whole, "%s", path);
    else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
    }
    size_t length = strlen(root);
    return !strncmp(whole, root, length) && (whole[length] == '/' || !whole[length]);
}

static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!*root) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* Whether this call fails; errno is set then. `lasts`: it goes on failing on a full disk. */
static int fails(int lasts) {
    long n = __sync_add_and_fetch(count, 1);
    if (!wanted) return 0;
    if (n == wanted && mode == KILL) kill(getpid(), SIGKILL);
    if (mode == SHORT) return 0;
    if (n == wanted || (mode == LASTING && lasts && n > wanted)) {
        errno = number;
        return 1;
    }
    return 0;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OPEN(name)                                                                    \
    int name(const char *path, int flags, ...) {                                      \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t permissions = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                                 \
        REAL(name);                                                                   \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT) && below(path) && fails(1)) return -1; \
        return real(path, flags, permissions);                                        \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t permissions) {
    REAL(mkdir);
    return below(path) && fails(1) ? -1 : real(path, permissions);
}
int link(const char *from, const char *to) {
    REAL(link);
    return below(to) && fails(1) ? -1 : real(from, to);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && fails(0) ? -1 : real(from, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
    REAL(renameat2);
    return below(to) && fails(0) ? -1 : real(a, from, b, to, flags);
}
int fsync(int fd) {
    REAL(fsync);
    return below_fd(fd) && fails(1) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return below_fd(fd) && fails(1) ? -1 : real(fd);
}
int ftruncate(int fd, off_t length) {
    REAL(ftruncate);
    return below_fd(fd) && fails(1) ? -1 : real(fd, length);
}
int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    return below_fd(fd) && fails(1) ? -1 : real(fd, length);
}

#define FAILS_OR_SHORTENS                                                \
    if (below_fd(fd)) {                                                  \
        if (fails(1)) return -1;                                         \
        if (mode == SHORT && *count == wanted && size > 1) size /= 2;    \
    }
ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    FAILS_OR_SHORTENS
    return real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    FAILS_OR_SHORTENS
    return real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    FAILS_OR_SHORTENS
    return real(fd, data, size, at);
}

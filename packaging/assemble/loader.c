/* This takes the place of the program in a tree that brings its own C library (packaging/assemble/portable.py). If the
 * machine has glibc GLIBC or later and the two libraries of GCC, it starts the program with those, so that the machine's
 * PKCS#11 modules and name services can be loaded. Otherwise it starts the program with the C library in the tree.
 *
 * In both cases the program finds its tree as usual: /proc/self/exe, which is the loader in the second case, is in a
 * directory of the tree. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FAILED = 70, ADDED = 6 };

#if defined __x86_64__
#define LOADER "ld-linux-x86-64.so.2"
#define INTERPRETER "/lib64/" LOADER
#define TRIPLET "x86_64-linux-gnu"
#else
#define LOADER "ld-linux-aarch64.so.1"
#define INTERPRETER "/lib/" LOADER
#define TRIPLET "aarch64-linux-gnu"
#endif

static int is_new_enough(const char *library) {
    static const char VERSION[] = "\0GLIBC_" GLIBC; /* a whole string of the library's, with the zero after it */
    int file = open(library, O_RDONLY | O_CLOEXEC), found = 0;
    struct stat status;
    if (file >= 0 && fstat(file, &status) == 0 && status.st_size > 0) {
        void *content = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (content != MAP_FAILED)
            found = memmem(content, (size_t)status.st_size, VERSION, sizeof VERSION) != NULL;
    }
    close(file);
    return found;
}

static int has_all(const char *directory) {
    static const char *const NAMES[] = {"libgcc_s.so.1", "libstdc++.so.6", "libc.so.6"};
    char path[PATH_MAX];
    for (size_t index = 0; index < sizeof NAMES / sizeof *NAMES; index++) {
        snprintf(path, sizeof path, "%s/%s", directory, NAMES[index]);
        if (access(path, R_OK) < 0)
            return 0;
    }
    return is_new_enough(path);
}

static int machine_serves(void) {
    static const char *const DIRECTORIES[] = {"/usr/lib/" TRIPLET, "/lib/" TRIPLET, "/usr/lib64", "/lib64", "/usr/lib", "/lib"};
    if (access(INTERPRETER, X_OK) < 0)
        return 0;
    for (size_t index = 0; index < sizeof DIRECTORIES / sizeof *DIRECTORIES; index++)
        if (has_all(DIRECTORIES[index]))
            return 1;
    return 0;
}

static int fail(const char *text) {
    fprintf(stderr, "ctd-decoder: error: %s: %s\n", text, strerror(errno));
    return FAILED;
}

int main(int argc, char **argv) {
    char own[PATH_MAX], libraries[PATH_MAX], loader[PATH_MAX], program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - sizeof "/libc/" - sizeof LOADER);
    if (length < 0)
        return fail("/proc is not mounted, so the program cannot find its own files");
    own[length] = 0;
    snprintf(libraries, sizeof libraries, "%s/libc", dirname(dirname(own)));
    snprintf(loader, sizeof loader, "%s/" LOADER, libraries);
    snprintf(program, sizeof program, "%s/ctd-decoder", libraries);
    if (machine_serves())
        execv(program, argv);

    char **arguments = calloc((size_t)argc + ADDED + 2, sizeof *arguments);
    if (!arguments)
        return fail("no memory");
    char *added[ADDED + 1] = {loader, "--argv0", argc ? argv[0] : "", "--inhibit-cache", "--library-path", libraries, program};
    memcpy(arguments, added, sizeof added);
    for (int index = 1; index < argc; index++)
        arguments[ADDED + index] = argv[index];
    execv(loader, arguments);
    return fail(loader);
}

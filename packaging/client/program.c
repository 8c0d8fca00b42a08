/* The program, which decrypts the layer if the agent does not. */
#define _GNU_SOURCE
#include "client.h"
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The program is beside this one: a script, started by the interpreter of its first line, or NAME. PROGRAM is elsewhere. */
#ifdef SCRIPT
#define NAME SCRIPT
#else
#define NAME "ctd-decoder"
#endif

const char *program(void) {
#ifdef PROGRAM
    return PROGRAM;
#else
    static char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof NAME);
    path[length < 0 ? 0 : length] = 0;
    char *slash = strrchr(path, '/');
    if (slash)
        strcpy(slash + 1, NAME);
    return path;
#endif
}

#ifdef SCRIPT
/* Start the script in an interpreter that ignores the environment and the current directory (-I). That option also hides
 * ~/.local, where pip installs for a single user, so that case is treated differently. */
static void start_isolated(const char *path, char **argv) {
    static char line[PATH_MAX];
    int count = 0, file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, line, sizeof line - 1);
    close(file);
    line[length < 0 ? 0 : length] = 0;
    line[strcspn(line, "\n")] = 0;
    while (argv[count])
        count++;
    char **arguments = calloc((size_t)count + 4, sizeof *arguments);
    if (!arguments || strncmp(line, "#!/", 3) != 0 || strchr(line, ' ') || strcmp(line, "#!/bin/sh") == 0)
        return;
    char **next = arguments;
    *next++ = line + 2;
    *next++ = strstr(path, "/.local/") ? "-EP" : "-I";
    *next++ = (char *)path;
    for (int index = 1; index < count; index++)
        *next++ = argv[index];
    execv(line + 2, arguments);
}
#endif

void become_program(char **argv) {
#ifdef SCRIPT
    start_isolated(program(), argv);
#endif
    execv(program(), argv);
}

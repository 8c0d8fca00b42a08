/* What a process may do and see. The agent's worker describes its client in the same way: decoder/agent/confinement.py. */
#define _GNU_SOURCE
#include "client.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 64, FILE_BYTES = 8192 };

static const char *const STATUS[] = {"Uid:",    "Gid:",    "Groups:",     "CapInh:",  "CapPrm:",          "CapEff:",
                                     "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:", NULL};
static const char *const NAMESPACES[] = {"mnt", "net", "pid", "user", "uts", "ipc", "cgroup", "time", NULL};
static const char CORE[] = "Max core file size"; /* the agent switches core dumps off */

static int add(char *text, const char *name, const char *value, size_t length) {
    size_t used = strlen(text);
    if (used + strlen(name) + length + 2 > TEXT_BYTES)
        return 0;
    strcpy(text + used, name);
    strncat(text, value, length);
    strcat(text, "\n");
    return 1;
}

static ssize_t read_file(const char *process, const char *name, char buffer[FILE_BYTES]) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%s/%s", process, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, buffer, FILE_BYTES - 1);
    close(file);
    buffer[length < 0 ? 0 : length] = 0;
    return length;
}

static int starts_with_any(const char *line, const char *const *prefixes) {
    for (; *prefixes; prefixes++)
        if (strncmp(line, *prefixes, strlen(*prefixes)) == 0)
            return 1;
    return 0;
}

static int add_status(const char *process, char *text) {
    char buffer[FILE_BYTES];
    if (read_file(process, "status", buffer) <= 0)
        return 0;
    for (char *line = strtok(buffer, "\n"); line; line = strtok(NULL, "\n"))
        if (starts_with_any(line, STATUS) && !add(text, "", line, strlen(line)))
            return 0;
    return 1;
}

static int add_limits(const char *process, char *text) {
    char buffer[FILE_BYTES];
    if (read_file(process, "limits", buffer) <= 0)
        return 0;
    for (char *line = strtok(buffer, "\n"); line; line = strtok(NULL, "\n"))
        if (strncmp(line, CORE, sizeof CORE - 1) != 0 && !add(text, "", line, strlen(line)))
            return 0;
    return 1;
}

static int add_label(const char *process, char *text) {
    char buffer[FILE_BYTES];
    read_file(process, "attr/current", buffer); /* without a security module it cannot be read, which leaves it empty */
    return add(text, "Label: ", buffer, strcspn(buffer, "\n"));
}

static int add_namespaces(const char *process, char *text) {
    for (const char *const *name = NAMESPACES; *name; name++) {
        char path[PATH_BYTES], target[PATH_BYTES];
        snprintf(path, sizeof path, "/proc/%s/ns/%s", process, *name);
        ssize_t length = readlink(path, target, sizeof target);
        if (length < 0 && name == NAMESPACES)
            return 0; /* the process cannot be inspected; a kernel may lack one of the later ones */
        if (!add(text, "Namespace: ", target, length < 0 ? 0 : (size_t)length))
            return 0;
    }
    return 1;
}

static int add_root(const char *process, char *text) {
    char path[PATH_BYTES], value[PATH_BYTES];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%s/root", process);
    if (stat(path, &status) < 0)
        return 0;
    snprintf(value, sizeof value, "%llu %llu", (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
    return add(text, "Root: ", value, strlen(value));
}

int describe_process(const char *process, char text[TEXT_BYTES]) {
    text[0] = 0;
    return add_status(process, text) && add_label(process, text) && add_namespaces(process, text) &&
           add_root(process, text) && add_limits(process, text);
}

const char *first_difference(const char *ours, const char *theirs) {
    while (*ours) {
        size_t length = strcspn(ours, "\n") + 1;
        if (strncmp(ours, theirs, length) != 0)
            return ours;
        ours += length;
        theirs += length;
    }
    return *theirs ? theirs : NULL;
}

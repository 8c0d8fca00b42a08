/* The agent's socket: where it is, and who creates it. */
#define _GNU_SOURCE
#include "client.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef RUN
#define RUN "/run"
#endif
#define FOLDER "ctd-decoder"

enum { CONNECT_POLLS = 1000, CONNECT_POLL_MILLISECONDS = 10, LOCK_POLLS = 200, LOCK_POLL_MILLISECONDS = 5 };
enum { ENTRIES = 4096 }; /* of a directory on LD_LIBRARY_PATH; a larger one counts as one that has libraries */

extern char **environ;

/* The directory. */

static int open_parent(void) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    const char *candidates[] = {geteuid() == 0 ? RUN : NULL, runtime && runtime[0] == '/' ? runtime : NULL};
    for (size_t index = 0; index < 2; index++) {
        struct stat status;
        int parent = candidates[index] ? open(candidates[index], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (parent >= 0 && fstat(parent, &status) == 0 && status.st_uid == geteuid() && !(status.st_mode & 022))
            return parent;
        close(parent);
    }
    return -1;
}

/* Return whether a directory is in a place where every user can create files. */
static int is_public(int directory) {
    static const char *const PUBLIC[] = {"/tmp/", "/var/tmp/", "/dev/shm/"};
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    int found = length <= 0;
    for (size_t index = 0; index < sizeof PUBLIC / sizeof *PUBLIC; index++)
        found |= strncmp(path, PUBLIC[index], strlen(PUBLIC[index])) == 0;
    return found;
}

static int open_directory(void) {
    struct stat status;
    int parent = open_parent();
    if (parent < 0)
        return -1;
    mkdirat(parent, FOLDER, 0700);
    int directory = openat(parent, FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(parent);
    if (directory >= 0 && fstat(directory, &status) == 0 && status.st_uid == geteuid() &&
        (status.st_mode & 07777) == 0700 && !is_public(directory))
        return directory;
    close(directory);
    return -1;
}

/* The socket's name. Processes that load other libraries, have other rights, or run another program use another one. */

static uint64_t hash(uint64_t state, const void *data, size_t length) { /* FNV-1a */
    for (const unsigned char *at = data, *end = at + length; at < end; at++)
        state = (state ^ *at) * 0x100000001b3;
    return state;
}

static const uint64_t START = 0xcbf29ce484222325;

static uint64_t hash_file(uint64_t state, const struct stat *status) {
    uint64_t values[] = {status->st_dev,          status->st_ino,           status->st_size,         status->st_mtim.tv_sec,
                         status->st_mtim.tv_nsec, status->st_ctim.tv_sec, status->st_ctim.tv_nsec};
    return hash(state, values, sizeof values);
}

/* Return whether the loader may find a library in a directory: something.so…, or a directory for certain processors. */
static int has_libraries(DIR *directory) {
    static const char *const FOLDERS[] = {"glibc-hwcaps", "tls", "x86_64", "aarch64", "haswell", "xeon_phi", NULL};
    int count = 0, found = 0;
    for (struct dirent *entry; !found && (entry = readdir(directory));) {
        found = strstr(entry->d_name, ".so") != NULL || ++count > ENTRIES;
        for (const char *const *name = FOLDERS; *name; name++)
            found |= strcmp(entry->d_name, *name) == 0;
    }
    return found;
}

/* ld.so(8): elements end with a colon or a semicolon; an empty one is the current directory. */
static uint64_t hash_library_path(uint64_t state, const char *elements) {
    while (1) {
        char path[PATH_MAX] = ".";
        struct stat status;
        size_t length = strcspn(elements, ":;");
        if (length && length < sizeof path) {
            memcpy(path, elements, length);
            path[length] = 0;
        }
        DIR *directory = opendir(path);
        if (directory && has_libraries(directory) && fstat(dirfd(directory), &status) == 0)
            state = hash_file(state, &status);
        if (directory)
            closedir(directory);
        if (!elements[length])
            return state;
        elements += length + 1;
    }
}

/* Variables that are read when libraries are loaded. The agent has loaded them before it gets a client's environment. */
static int counts_when_loading(const char *variable) {
    static const char *const PREFIXES[] = {"LD_", "OPENSSL_", "MALLOC_", "GLIBC_TUNABLES=", "GCONV_PATH=", NULL};
    for (const char *const *prefix = PREFIXES; *prefix; prefix++)
        if (strncmp(variable, *prefix, strlen(*prefix)) == 0)
            return 1;
    return 0;
}

static uint64_t hash_environment(uint64_t state) {
    static const char LIBRARIES[] = "LD_LIBRARY_PATH=";
    uint64_t sum = 0; /* the order of variables does not matter */
    for (char **variable = environ; *variable; variable++) {
        if (strncmp(*variable, LIBRARIES, sizeof LIBRARIES - 1) == 0)
            state = hash_library_path(state, *variable + sizeof LIBRARIES - 1);
        else if (counts_when_loading(*variable))
            sum += hash(START, *variable, strlen(*variable));
    }
    return hash(state, &sum, sizeof sum);
}

int find_place(struct place *place, const char *text) {
    struct stat program;
    if (stat("/proc/self/exe", &program) < 0)
        return 0;
    uint64_t name = hash_environment(hash_file(hash(START, text, strlen(text)), &program));
#ifdef AGENT_NAME
    (void)name;
    strcpy(place->name, AGENT_NAME);
#else
    snprintf(place->name, sizeof place->name, "agent-%016llx.sock", (unsigned long long)name);
#endif
    place->directory = open_directory();
    return place->directory >= 0;
}

/* The socket. */

static struct sockaddr_un address_of(const struct place *place) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", place->directory, place->name);
    return address;
}

/* Record which socket has the name, so that `remove_socket` does not remove a socket that replaces it. */
static void look(struct place *place) {
    if (fstatat(place->directory, place->name, &place->seen, AT_SYMLINK_NOFOLLOW) < 0)
        place->seen.st_ino = 0;
}

static int try_to_connect(struct place *place) {
    struct sockaddr_un address = address_of(place);
    look(place);
    int one = 1, agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (agent < 0)
        return -1;
    setsockopt(agent, SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    int reason, polls = CONNECT_POLLS;
    do
        reason = connect(agent, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
    while (reason == EAGAIN && polls-- && sleep_milliseconds(CONNECT_POLL_MILLISECONDS)); /* its queue is full */
    if (!reason)
        return agent;
    close(agent);
    errno = reason;
    return -1;
}

/* Lock the directory, as decoder/node/unixsocket.py does; every owner of the lock keeps it for a moment only. */
static int lock_directory(const struct place *place) {
    int lock = openat(place->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int poll = 0; lock >= 0 && poll < LOCK_POLLS; poll++) {
        if (flock(lock, LOCK_EX | LOCK_NB) == 0)
            return lock;
        if (!sleep_milliseconds(LOCK_POLL_MILLISECONDS))
            break;
    }
    close(lock);
    return -1;
}

/* Return whether no process has a socket of any type bound to the name. The probe is a datagram socket: _is_in_use in
 * decoder/node/unixsocket.py says why. */
static int is_free(const struct place *place) {
    struct sockaddr_un address = address_of(place);
    int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int is_used = probe < 0 || connect(probe, (struct sockaddr *)&address, sizeof address) == 0 ||
                  (errno != ECONNREFUSED && errno != ENOENT);
    close(probe);
    return !is_used;
}

static int make_listener(struct place *place) {
    struct sockaddr_un address = address_of(place);
    if (!is_free(place))
        return -1;
    unlinkat(place->directory, place->name, 0);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
        listen(listener, SOMAXCONN) == 0) {
        look(place);
        return listener;
    }
    close(listener);
    return -1;
}

int connect_to_agent(struct place *place, int *listener) {
    int agent = try_to_connect(place);
    if (agent >= 0 || !listener || (errno != ENOENT && errno != ECONNREFUSED))
        return agent;
    int lock = lock_directory(place);
    if (lock < 0)
        return -1;
    agent = try_to_connect(place); /* another client may have created it meanwhile */
    if (agent < 0)
        *listener = make_listener(place);
    close(lock);
    return agent;
}

void remove_socket(const struct place *place) {
    struct stat status;
    int lock = lock_directory(place);
    if (fstatat(place->directory, place->name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        status.st_dev == place->seen.st_dev && status.st_ino == place->seen.st_ino)
        unlinkat(place->directory, place->name, 0);
    close(lock);
}

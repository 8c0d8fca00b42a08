/* What containerd starts as ctd-decoder: it hands the layer over to the agent (`ctd-decoder agent`), and becomes the
 * program itself if there is none, if it refuses, or if it ends before anything of the layer was read.
 *
 * On the agent's socket each message is a 32-bit big-endian length and a msgpack array. The agent speaks first:
 *   [version, READY, 0]; then we send [version, arguments, environment, open descriptors of 0 to 3 as a bit mask] with
 *   those descriptors and the current directory (SCM_RIGHTS); then it says
 *   [version, STARTED, 0] before it touches a descriptor, and [version, ENDED, exit status].
 * Who is on the other end is told by the kernel: only a process of our own user is spoken to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef AGENT_SOCKET
#define AGENT_SOCKET "/run/ctd-decoder/agent.sock"
#endif
#define NAME "ctd-decoder" /* of the program itself, beside this one; PROGRAM may name another */

enum { VERSION = 1 };
enum { READY, STARTED, ENDED, NOTHING };
enum { DESCRIPTORS = 4, PASSED = DESCRIPTORS + 1 };
enum { REQUEST_BYTES = 128 * 1024, REPLY_BYTES = 5 };
enum { READY_MILLISECONDS = 200, STARTED_MILLISECONDS = 5000, FOR_EVER = -1 };
/* As in decoder/limits.py: HOLD_SECONDS, HOLD_POLL_SECONDS, HOLD_AFTER_SECONDS. */
enum { HOLD_POLLS = 400, HOLD_POLL_MILLISECONDS = 5, HOLD_AFTER_MILLISECONDS = 100 };
enum { FAILED = 70, IN_PROCESS = -1 };

extern char **environ;

static unsigned char request[REQUEST_BYTES];
static size_t request_length;

static int fail(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written; /* if nobody listens, the exit status still tells */
    return FAILED;
}

static void sleep_milliseconds(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Requests: true while everything fits. */

static int put(const void *data, size_t length) {
    if (length > sizeof request - request_length)
        return 0;
    memcpy(request + request_length, data, length);
    request_length += length;
    return 1;
}

static int put_header(unsigned char type, size_t count) {
    unsigned char header[] = {type, count >> 24, count >> 16, count >> 8, count};
    return put(header, sizeof header);
}

static int put_strings(char **strings) {
    size_t count = 0;
    while (strings[count])
        count++;
    int fits = put_header(0xdd, count); /* array 32 */
    for (; fits && *strings; strings++) {
        size_t length = strlen(*strings);
        fits = put_header(0xc6, length) && put(*strings, length); /* bin 32 */
    }
    return fits;
}

static int build_request(char **arguments, unsigned char mask) {
    const unsigned char start[] = {0, 0, 0, 0, 0x94, VERSION};
    if (!(put(start, sizeof start) && put_strings(arguments) && put_strings(environ) && put(&mask, 1)))
        return 0;
    size_t length = request_length - 4;
    for (int at = 3; at >= 0; at--, length >>= 8)
        request[at] = (unsigned char)length;
    return 1;
}

/* The socket. */

static int connect_to_agent(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = AGENT_SOCKET};
    struct ucred peer;
    socklen_t size = sizeof peer;
    int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (agent < 0 || connect(agent, (struct sockaddr *)&address, sizeof address) < 0 || /* EAGAIN: its queue is full */
        getsockopt(agent, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid())
        return -1;
    return agent;
}

static int send_request(int agent, unsigned char mask, int directory) {
    union {
        char space[CMSG_SPACE(PASSED * sizeof(int))];
        struct cmsghdr aligned;
    } control = {{0}};
    int passed[PASSED], count = 0;
    for (int descriptor = 0; descriptor < DESCRIPTORS; descriptor++)
        if (mask & 1 << descriptor)
            passed[count++] = descriptor;
    passed[count++] = directory;
    struct iovec data = {request, request_length};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.space};
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), passed, count * sizeof(int));
    /* What the socket does not take at once it would not take later either: the worker is waiting for it. */
    return sendmsg(agent, &message, MSG_NOSIGNAL) == (ssize_t)request_length;
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static int receive_bytes(int agent, unsigned char *buffer, size_t length, long long deadline) {
    while (length) {
        ssize_t count = recv(agent, buffer, length, 0);
        if (count > 0) {
            buffer += count;
            length -= (size_t)count;
        } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
            return 0;
        } else {
            struct pollfd waiting = {.fd = agent, .events = POLLIN};
            long long left = deadline - now();
            if (deadline >= 0 && left <= 0)
                return 0;
            poll(&waiting, 1, deadline < 0 ? -1 : (int)left);
        }
    }
    return 1;
}

/* Return what the agent says next; NOTHING if it ends, is too slow, or speaks another language. */
static int receive(int agent, int milliseconds, int *status) {
    unsigned char length[4], reply[REPLY_BYTES];
    long long deadline = milliseconds < 0 ? -1 : now() + milliseconds;
    if (!receive_bytes(agent, length, sizeof length, deadline) || length[0] || length[1] || length[2] ||
        (length[3] != REPLY_BYTES && length[3] != REPLY_BYTES - 1) ||
        !receive_bytes(agent, reply, length[3], deadline) || reply[0] != 0x93 || reply[1] != VERSION)
        return NOTHING;
    if (length[3] == REPLY_BYTES && reply[3] != 0xcc) /* uint 8 */
        return NOTHING;
    *status = reply[length[3] - 1];
    return reply[2];
}

/* Have the agent do the work. Until it has said that it starts, giving up must leave the descriptors untouched: a
 * request that it has not answered in time is taken back by closing our end, after which it cannot say so any more. */
static int ask_agent(char **arguments) {
    unsigned char mask = 0;
    int status = 0;
    for (int descriptor = 0; descriptor < DESCRIPTORS; descriptor++)
        if (fcntl(descriptor, F_GETFD) >= 0)
            mask |= (unsigned char)(1 << descriptor);
    int agent = connect_to_agent();
    if (agent < 0 || receive(agent, READY_MILLISECONDS, &status) != READY)
        return IN_PROCESS;
    int directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 || !build_request(arguments, mask) || !send_request(agent, mask, directory))
        return IN_PROCESS;
    if (receive(agent, STARTED_MILLISECONDS, &status) != STARTED) {
        shutdown(agent, SHUT_RDWR);
        if (receive(agent, 0, &status) != STARTED)
            return IN_PROCESS;
        return fail("ctd-decoder: error: the agent was too slow\n");
    }
    if (receive(agent, FOR_EVER, &status) != ENDED)
        return fail("ctd-decoder: error: the agent ended before the layer did\n");
    return status;
}

/* End with a failure that containerd cannot miss: decoder/node/ending.py says why and how. */
static void hold_standard_output(pid_t parent) {
    close(0);
    close(2);
    close(3);
    for (int poll = 0; poll < HOLD_POLLS && kill(parent, 0) == 0; poll++)
        sleep_milliseconds(HOLD_POLL_MILLISECONDS);
    sleep_milliseconds(HOLD_AFTER_MILLISECONDS);
}

/* Become the program; return only if that fails. */
static void become_program(char **argv) {
#ifdef PROGRAM
    execv(PROGRAM, argv);
#else
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof NAME);
    if (length <= 0)
        return;
    path[length] = 0;
    strcpy(strrchr(path, '/') + 1, NAME);
    execv(path, argv);
#endif
}

int main(int argc, char **argv) {
    int is_layer = argc < 2 || argv[1][0] == '-'; /* and no command, such as `image` */
    int status = is_layer ? ask_agent(argv + (argc > 0)) : IN_PROCESS;
    if (status == IN_PROCESS) {
        become_program(argv);
        status = fail("ctd-decoder: error: the program beside the agent's client cannot be started\n");
    }
    pid_t parent = getpid();
    if (status && fork() == 0) {
        hold_standard_output(parent);
        status = 0;
    }
    _exit(status);
}

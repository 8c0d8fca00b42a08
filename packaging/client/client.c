/* The program that containerd starts as ctd-decoder. It hands the layer over to the agent. It executes the program itself
 * if there is no agent, if either side refuses the other, or if the agent ends before anything of the layer was read. If
 * there is no agent yet, it creates the agent's socket, and the program then leaves an agent behind (decoder/agent).
 *
 * On the socket each message is a 32-bit big-endian length and a msgpack array. The agent speaks first:
 *   [version, READY, 0]; then we send [version, arguments, environment, open descriptors of 0 to 3 as a bit mask] with
 *   those descriptors and the current directory (SCM_RIGHTS), or [version, reason] to refuse it; then it says
 *   [version, STARTED, 0] before it touches a descriptor, and [version, ENDED, exit status].
 * The kernel tells us who the peer is (SO_PEERCRED, SCM_CREDENTIALS). The peer must run as our user, and must have exactly
 * our rights and our view of the system, since it does our work. */
#define _GNU_SOURCE
#include "client.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef READY_MILLISECONDS
#define READY_MILLISECONDS 10000
#endif
#ifndef AGENT_STARTS
#define AGENT_STARTS 1
#endif

enum { VERSION = 2 };
enum { READY, STARTED, ENDED, NOTHING };
enum { DESCRIPTORS = 4, PASSED = DESCRIPTORS + 1, FIRST_OF_OURS = 10 };
enum { REQUEST_BYTES = 128 * 1024, REPLY_BYTES = 5 };
/* A worker waits as long for the request: AGENT_REQUEST_SECONDS in decoder/limits.py. */
enum { STARTED_MILLISECONDS = 5000, FOR_EVER = -1 };
enum { ATTEMPTS = 3 }; /* an agent that ends while we wait for it is replaced */
/* As in decoder/limits.py: HOLD_SECONDS, HOLD_POLL_SECONDS, HOLD_AFTER_SECONDS. */
enum { HOLD_POLLS = 400, HOLD_POLL_MILLISECONDS = 5, HOLD_AFTER_MILLISECONDS = 100 };
enum { FAILED = 70, INTERRUPTED = 128, IN_PROCESS = -1 };

extern char **environ;

static unsigned char request[REQUEST_BYTES];
static size_t request_length;
static char ourselves[TEXT_BYTES], theirs[TEXT_BYTES];
static unsigned char open_at_start; /* of descriptors 0 to 3, as a bit mask */
static sigset_t caught, mask_at_start;
static volatile sig_atomic_t interrupted;

static int fail(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written; /* if nobody reads it, there is still the exit status */
    return FAILED;
}

static int fail_to_start(int reason) {
    static char text[PATH_MAX + 256];
    snprintf(text, sizeof text, "ctd-decoder: error: the program beside the agent's client cannot be started: %s: %s\n",
             program(), strerror(reason));
    return fail(text);
}

int sleep_milliseconds(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    ppoll(NULL, 0, &time, &mask_at_start);
    return !interrupted;
}

/* Record which of the layer's descriptors are open, and occupy the others, so that no other file gets their numbers. */
static void occupy_descriptors(void) {
    int descriptor;
    for (descriptor = 0; descriptor < DESCRIPTORS; descriptor++)
        if (fcntl(descriptor, F_GETFD) >= 0)
            open_at_start |= (unsigned char)(1 << descriptor);
    do
        descriptor = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (descriptor >= 0 && descriptor < DESCRIPTORS);
    close(descriptor);
}

/* Signals that ask us to end. A layer that ends early must be seen as a failure, as after any other failure. The signals
 * are handled only while we wait for the agent. */

static void interrupt(int number) {
    interrupted = number;
}

static void catch_signals(void) {
    static const int NUMBERS[] = {SIGTERM, SIGINT, SIGHUP};
    sigemptyset(&caught);
    for (size_t index = 0; index < sizeof NUMBERS / sizeof *NUMBERS; index++) {
        struct sigaction before, action = {.sa_handler = interrupt};
        sigaction(NUMBERS[index], NULL, &before);
        if (before.sa_handler == SIG_IGN)
            continue;
        sigaction(NUMBERS[index], &action, NULL);
        sigaddset(&caught, NUMBERS[index]);
    }
    sigprocmask(SIG_BLOCK, &caught, &mask_at_start);
}

/* Building requests: each function returns true while everything fits. */

static int put(const void *data, size_t length) {
    if (length > sizeof request - request_length)
        return 0;
    memcpy(request + request_length, data, length);
    request_length += length;
    return 1;
}

static int put_string(const char *string, size_t length, unsigned char type) {
    unsigned char header[] = {type, length >> 24, length >> 16, length >> 8, length};
    return put(header, sizeof header) && put(string, length);
}

static int put_strings(char **strings) {
    size_t count = 0;
    while (strings[count])
        count++;
    unsigned char header[] = {0xdd, count >> 24, count >> 16, count >> 8, count}; /* array 32 */
    int fits = put(header, sizeof header);
    for (; fits && *strings; strings++)
        fits = put_string(*strings, strlen(*strings), 0xc6); /* bin 32 */
    return fits;
}

static void begin_message(unsigned char items) {
    const unsigned char start[] = {0, 0, 0, 0, 0x90 | items, VERSION};
    request_length = 0;
    put(start, sizeof start);
}

static void finish_message(void) {
    size_t length = request_length - 4;
    for (int at = 3; at >= 0; at--, length >>= 8)
        request[at] = (unsigned char)length;
}

static int build_request(char **arguments) {
    begin_message(4);
    int fits = put_strings(arguments) && put_strings(environ) && put(&open_at_start, 1);
    finish_message();
    return fits;
}

/* The conversation. */

static int send_request(int agent, int directory) {
    union {
        char space[CMSG_SPACE(PASSED * sizeof(int))];
        struct cmsghdr aligned;
    } control = {{0}};
    int passed[PASSED], count = 0;
    for (int descriptor = 0; descriptor < DESCRIPTORS; descriptor++)
        if (open_at_start & 1 << descriptor)
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
    /* If the socket does not take everything at once, it would not do so later either, because the worker is waiting. */
    return sendmsg(agent, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)request_length;
}

static void refuse(int agent, const char *difference) {
    begin_message(2);
    put_string(difference, strcspn(difference, "\n"), 0xc6);
    finish_message();
    ssize_t sent = send(agent, request, request_length, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

/* Receive what is there, and record who has sent it. */
static ssize_t receive_some(int agent, unsigned char *buffer, size_t length, struct ucred *sender) {
    union {
        char space[CMSG_SPACE(sizeof(struct ucred))];
        struct cmsghdr aligned;
    } control;
    struct iovec data = {buffer, length};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.space};
    message.msg_controllen = sizeof control.space;
    ssize_t count = recvmsg(agent, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS)
        memcpy(sender, CMSG_DATA(header), sizeof *sender);
    return count;
}

/* Wait until there is something to read, the deadline or a signal; return 0 for the latter two. */
static int wait_for(int agent, long long deadline) {
    struct pollfd waiting = {.fd = agent, .events = POLLIN};
    long long left = deadline - now();
    struct timespec time = {left / 1000, left % 1000 * 1000000};
    if (deadline >= 0 && left <= 0)
        return 0;
    ppoll(&waiting, 1, deadline < 0 ? NULL : &time, &mask_at_start);
    return !interrupted;
}

static int receive_bytes(int agent, unsigned char *buffer, size_t length, long long deadline, struct ucred *sender) {
    while (length) {
        ssize_t count = receive_some(agent, buffer, length, sender);
        if (count > 0) {
            buffer += count;
            length -= (size_t)count;
        } else if (count == 0 || (errno != EAGAIN && errno != EINTR) || !wait_for(agent, deadline)) {
            return 0;
        }
    }
    return 1;
}

/* Return the agent's next message; NOTHING if it ends, is too slow, or speaks another version. */
static int receive(int agent, int milliseconds, int *status, struct ucred *sender) {
    unsigned char length[4], reply[REPLY_BYTES];
    long long deadline = milliseconds < 0 ? -1 : now() + milliseconds;
    if (!receive_bytes(agent, length, sizeof length, deadline, sender) || length[0] || length[1] || length[2] ||
        (length[3] != REPLY_BYTES && length[3] != REPLY_BYTES - 1) ||
        !receive_bytes(agent, reply, length[3], deadline, sender) || reply[0] != 0x93 || reply[1] != VERSION)
        return NOTHING;
    if (length[3] == REPLY_BYTES && reply[3] != 0xcc) /* uint 8 */
        return NOTHING;
    *status = reply[length[3] - 1];
    return reply[2];
}

/* Return whether the worker that has sent READY may have our descriptors; if not, tell it what differs. */
static int is_like_us(int agent, const struct ucred *worker) {
    struct ucred listener;
    socklen_t size = sizeof listener;
    char process[16];
    if (getsockopt(agent, SOL_SOCKET, SO_PEERCRED, &listener, &size) < 0 || listener.uid != geteuid() ||
        worker->uid != geteuid() || worker->pid <= 0)
        return 0;
    snprintf(process, sizeof process, "%d", (int)worker->pid);
    const char *difference =
        describe_process(process, theirs) ? first_difference(ourselves, theirs) : "The agent cannot be inspected";
    if (difference)
        refuse(agent, difference);
    return !difference;
}

/* Wait for a worker. Return its connection; or -1, with `listener` set if an agent is to be started. */
static int find_worker(struct place *place, int *listener) {
    for (int attempt = 0; attempt < ATTEMPTS && *listener < 0 && !interrupted; attempt++) {
        struct ucred sender = {0};
        int status, agent = connect_to_agent(place, AGENT_STARTS ? listener : NULL);
        if (agent < 0 && errno == EAGAIN)
            return -1; /* its queue stays full */
        if (agent < 0)
            continue;
        long long begin = now();
        if (receive(agent, READY_MILLISECONDS, &status, &sender) == READY)
            return is_like_us(agent, &sender) ? agent : -1;
        close(agent);
        if (now() - begin >= READY_MILLISECONDS) {
            remove_socket(place);
            return -1;
        }
    }
    return -1;
}

/* Let the agent do the work. Until it has said that it starts, the descriptors must be untouched if we give up. If it does
 * not answer a request in time, closing our end withdraws the request: it can then no longer say that it starts. */
static int ask_worker(int agent, char **arguments) {
    int status = 0;
    struct ucred sender;
    int directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 || !build_request(arguments) || !send_request(agent, directory))
        return IN_PROCESS;
    if (receive(agent, STARTED_MILLISECONDS, &status, &sender) != STARTED) {
        shutdown(agent, SHUT_RDWR);
        if (receive(agent, 0, &status, &sender) != STARTED)
            return IN_PROCESS;
        return fail("ctd-decoder: error: the agent was too slow\n");
    }
    if (receive(agent, FOR_EVER, &status, &sender) == ENDED)
        return status;
    return interrupted ? FAILED : fail("ctd-decoder: error: the agent ended before the layer did\n");
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

static int is_read(void) {
    struct stat status;
    struct pollfd output = {.fd = STDOUT_FILENO};
    return fstat(STDOUT_FILENO, &status) == 0 && S_ISFIFO(status.st_mode) && poll(&output, 1, 0) == 0;
}

static void end(int status) {
    pid_t parent = getpid(), child = status ? fork() : 1;
    while (child < 0 && is_read()) { /* no process can be created now, and ours must not end before one is */
        sleep_milliseconds(HOLD_POLL_MILLISECONDS);
        child = fork();
    }
    if (child == 0) {
        hold_standard_output(parent);
        status = 0;
    }
    _exit(status);
}

/* Restore the signals for the program. One that came in the meantime ends this process instead. */
static void release_signals(void) {
    sigprocmask(SIG_SETMASK, &mask_at_start, NULL); /* now it is handled */
    sigprocmask(SIG_BLOCK, &caught, NULL);
    if (interrupted)
        end(INTERRUPTED + interrupted);
    for (int number = 1; number < NSIG; number++)
        if (sigismember(&caught, number) == 1)
            signal(number, SIG_DFL); /* from here on, no signal is handled and then forgotten */
    sigprocmask(SIG_SETMASK, &mask_at_start, NULL);
}

/* Execute the program with the agent's socket and directory, on descriptors above those of a layer. */
static void become_first_program(int argc, char **argv, const struct place *place, int listener) {
    char option[128];
    char **arguments = calloc((size_t)argc + 2, sizeof *arguments);
    int passed = fcntl(listener, F_DUPFD, FIRST_OF_OURS), directory = fcntl(place->directory, F_DUPFD, FIRST_OF_OURS);
    if (arguments && passed >= 0 && directory >= 0) {
        snprintf(option, sizeof option, "--agent-socket=%d,%d,%s", passed, directory, place->name);
        arguments[0] = argv[0];
        arguments[1] = option;
        for (int index = 1; index < argc; index++)
            arguments[index + 1] = argv[index];
        release_signals();
        become_program(arguments);
    }
    remove_socket(place);
}

int main(int argc, char **argv) {
    struct place place;
    int status = IN_PROCESS, listener = -1, agent = -1;
    occupy_descriptors();
    catch_signals();
    if (argc > 0 && wants_agent(argc, argv) && describe_process("self", ourselves) && find_place(&place, ourselves))
        agent = find_worker(&place, &listener);
    if (agent >= 0)
        status = ask_worker(agent, argv + 1);
    if (interrupted)
        status = INTERRUPTED + interrupted;
    if (status == IN_PROCESS) {
        if (listener >= 0)
            become_first_program(argc, argv, &place, listener);
        release_signals();
        become_program(argv);
        status = fail_to_start(errno);
    }
    end(status);
}

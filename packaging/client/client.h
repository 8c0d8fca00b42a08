/* The parts of the agent's client: client.c hands a layer over, place.c finds or creates the agent's socket,
 * confinement.c describes what a process may do and see, switch.c decides whether to use an agent,
 * and program.c starts the program itself. */
#ifndef CLIENT_H
#define CLIENT_H
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

enum { TEXT_BYTES = 16 * 1024 };

/* Describe what a process ("self", or its number) may do and see: one line for each property. Return 0 if something
 * cannot be read or does not fit. Processes with equal descriptions can replace each other. */
int describe_process(const char *process, char text[TEXT_BYTES]);

/* Return the first line of `ours` that differs in `theirs`, or NULL if there is none. */
const char *first_difference(const char *ours, const char *theirs);

/* Where the agent of processes like this one listens: in a directory that only this user can use. `seen` is the socket
 * to which this process has tried to connect, or which it has created. */
struct place {
    int directory;
    char name[64];
    struct stat seen;
};

/* Find the place for a process with the description `text`; return 0 if there is no safe one. */
int find_place(struct place *place, const char *text);

/* Connect to the agent. If nobody listens and `listener` is not NULL, create the socket for a new agent and return it there;
 * clients that connect from then on wait for that agent. Return the connection, or -1. */
int connect_to_agent(struct place *place, int *listener);

/* Remove the socket of an agent that does not answer, so that nobody else waits for it; but not one that replaced it. */
void remove_socket(const struct place *place);

/* Return whether the agent may be used: not for commands and help, and not if it is switched off. */
int wants_agent(int argc, char **argv);

/* The path of the program. */
const char *program(void);

/* Execute the program with these arguments; return only if that fails, with errno set. */
void become_program(char **argv);

/* Sleep; return 0 if a signal has asked this process to end. */
int sleep_milliseconds(long milliseconds);

#endif

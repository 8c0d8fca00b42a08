/* The parts of the agent's client: client.c hands a layer over, place.c finds or makes the agent's socket,
 * confinement.c describes what a process may do and see, switch.c reads whether there shall be an agent,
 * and program.c starts the program itself. */
#ifndef CLIENT_H
#define CLIENT_H
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

enum { TEXT_BYTES = 16 * 1024 };

/* Describe what a process ("self", or its number) may do and see: one line for each property. Return 0 if something
 * cannot be read or does not fit. Two processes that are described alike can stand for each other. */
int describe_process(const char *process, char text[TEXT_BYTES]);

/* Return the first line of `ours` that differs in `theirs`, or NULL if there is none. */
const char *first_difference(const char *ours, const char *theirs);

/* Where the agent of processes like this one listens: in a directory that only this user can use. `seen` is the socket
 * to which this process has tried to connect, or which it has made. */
struct place {
    int directory;
    char name[64];
    struct stat seen;
};

/* Find the place for a process that is described by `text`; return 0 if there is no safe one. */
int find_place(struct place *place, const char *text);

/* Connect to the agent. Where nobody listens and `listener` is not NULL, make the socket and return it there, for an agent
 * that is to be started: clients that connect from then on wait for it. Return the connection, or -1. */
int connect_to_agent(struct place *place, int *listener);

/* Remove the socket of an agent that does not answer, so that nobody else waits for it; but not one that replaced it. */
void remove_socket(const struct place *place);

/* Tell whether the agent may be used: not for commands and help, nor where it is switched off. */
int wants_agent(int argc, char **argv);

/* The path of the program. */
const char *program(void);

/* Become the program, with these arguments; return only if that fails, with errno set. */
void become_program(char **argv);

void sleep_milliseconds(long milliseconds);

#endif

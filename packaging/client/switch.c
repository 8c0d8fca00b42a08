/* Decides whether to use an agent: command line, environment and settings file. */
#define _GNU_SOURCE
#include "client.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SWITCH "CTD_DECODER_AGENT"
#define DEBUG "CTD_DECODER_DEBUG"
#ifndef SETTINGS
#define SETTINGS "/etc/ctd-decoder/agent.env"
#endif

enum { SETTINGS_BYTES = 4096 };

static int is_switched_off(const char *setting) {
    return strcmp(setting, "off") == 0 || strcmp(setting, "\"off\"") == 0 || strcmp(setting, "'off'") == 0;
}

static int settings_switch_off(void) {
    static char text[SETTINGS_BYTES];
    int file = open(SETTINGS, O_RDONLY | O_CLOEXEC | O_NONBLOCK), off = 0;
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    close(file);
    for (char *line = length > 0 ? strtok(text, "\r\n") : NULL; line; line = strtok(NULL, "\r\n"))
        if (strncmp(line, SWITCH "=", sizeof SWITCH) == 0)
            off = is_switched_off(line + sizeof SWITCH);
    return off;
}

static int is_option(const char *argument, const char *name) {
    return argument[0] == '-' && strcmp(argument + 1 + (argument[1] == '-'), name) == 0;
}

int wants_agent(int argc, char **argv) {
    static const char *const WITHOUT[] = {"no-agent", "help", "h", "version", "v"};
    if (argc > 1 && argv[1][0] != '-') /* a command, such as `image` */
        return 0;
    for (int argument = 1; argument < argc; argument++)
        for (size_t index = 0; index < sizeof WITHOUT / sizeof *WITHOUT; index++)
            if (is_option(argv[argument], WITHOUT[index]))
                return 0;
    const char *setting = getenv(SWITCH), *debug = getenv(DEBUG);
    if (debug && strcmp(debug, "1") == 0) /* the agent's processes could not show where they fail */
        return 0;
    return setting && *setting ? !is_switched_off(setting) : !settings_switch_off();
}

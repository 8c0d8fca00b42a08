"""Start one program and tell what the kernel counted for it; run as a script in a process of its own.

A process inherits, over fork and exec alike, the peak memory of the one that starts it. So a program
is started from here, where next to nothing was imported, and not from the bench itself.
"""

import os
import sys
from time import perf_counter


def launch(stdin: int, stdout: int, payload: int, program: list[str]) -> str:
    """Run a program to its end, with three of our descriptors as its 0, 1 and 3.

    Returns:
        Its exit status, wall and CPU time in seconds, and peak memory in KiB.
    """
    places = ((stdin, 0), (stdout, 1), (payload, 3))
    for descriptor, _ in places:
        os.set_inheritable(descriptor, False)
    moves = [(os.POSIX_SPAWN_DUP2, descriptor, place) for descriptor, place in places]
    start = perf_counter()
    process = os.posix_spawn(program[0], program, os.environ, file_actions=moves)
    for descriptor, _ in places:
        os.close(descriptor)
    _, status, used = os.wait4(process, 0)
    wall = perf_counter() - start
    return f"{os.waitstatus_to_exitcode(status)} {wall} {used.ru_utime + used.ru_stime} {used.ru_maxrss}"


if __name__ == "__main__":
    print(launch(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))

"""Start a program, or several at once, and tell what the kernel counted; run as a script in a process of its own.

A process inherits, over fork and exec alike, the peak memory of the one that starts it. So a program
is started from here, where next to nothing was imported, and not from the bench itself.
"""

import os
import signal
import sys
from time import perf_counter

SECONDS = 600


def launch(descriptors: list[int], program: list[str]) -> str:
    """Run a program to its end, once for every three of our descriptors, which are its 0, 1 and 3; all at once.

    Returns:
        The highest exit status, wall and CPU time in seconds together, and the peak memory of one process in KiB.
    """
    triples = list(zip(*[iter(descriptors)] * 3, strict=True))
    processes: list[int] = []

    def end(*_: object) -> None:
        for process in processes:
            os.kill(process, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    start = perf_counter()
    for triple in triples:
        moves = [(os.POSIX_SPAWN_DUP2, *move) for move in zip(triple, (0, 1, 3), strict=True)]
        processes.append(os.posix_spawn(program[0], program, os.environ, file_actions=moves))
    for descriptor in descriptors:
        os.close(descriptor)
    ends = [os.wait4(process, 0) for process in processes]
    wall = perf_counter() - start
    status = max(abs(os.waitstatus_to_exitcode(status)) for _, status, _ in ends)
    cpu = sum(used.ru_utime + used.ru_stime for _, _, used in ends)
    return f"{status} {wall} {cpu} {max(used.ru_maxrss for _, _, used in ends)}"


if __name__ == "__main__":
    try:
        print(launch([int(text) for text in sys.argv[1].split(",")], sys.argv[2:]))
    except OSError as error:
        sys.exit(str(error))

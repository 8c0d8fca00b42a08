"""Opened key-encryption keys of several processes: each is opened once, kept for a time, and wiped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from decoder import limits
from decoder.provider.errors import ProviderError
from decoder.provider.server.sharedkeks import SharedKeks, create_file

SECRET = b"a secret that is in no other place"
NAME = bytes(range(32))


def name_of(number: int) -> bytes:
    return number.to_bytes(4) * 8


def in_processes(count: int, work: Callable[[int], bool]) -> int:
    """Do something in some processes at a time, and count those for which it is true."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            status = 2
            try:
                status = int(work(number))
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {0, 1}
    return sum(statuses)


def test_processes_that_ask_at_the_same_time_wait_for_one_answer(tmp_path: Path) -> None:
    file = create_file()

    def open_it() -> bytes:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(0.5)
        return SECRET

    assert in_processes(6, lambda _: SharedKeks(60, file).opened(NAME, open_it, 30) == SECRET) == 6
    assert len(list(tmp_path.iterdir())) == 1
    assert SharedKeks(60, file).get(NAME) == SECRET


def test_after_a_failure_or_a_death_the_next_one_tries() -> None:
    file = create_file()
    keks = SharedKeks(60, file)

    def fail() -> bytes:
        raise ProviderError("no")

    def die() -> bytes:
        os._exit(1)

    assert in_processes(1, lambda _: bool(SharedKeks(60, file).opened(NAME, die, 30))) == 1
    with pytest.raises(ProviderError, match="no"):
        keks.opened(NAME, fail, 30)
    assert keks.get(NAME) is None
    assert keks.opened(NAME, lambda: SECRET, 30) == SECRET


def test_a_wait_has_a_limit() -> None:
    file = create_file()
    ready, tell_ready = os.pipe()
    child = os.fork()
    if child == 0:

        def hang() -> bytes:
            os.write(tell_ready, b"1")
            time.sleep(60)
            return SECRET

        try:
            SharedKeks(60, file).opened(NAME, hang, 90)
        finally:
            os._exit(0)
    os.read(ready, 1)
    try:
        with pytest.raises(ProviderError, match=r"no answer within 0\.2 seconds"):
            SharedKeks(60, file).opened(NAME, lambda: SECRET, 0.2)
        assert SharedKeks(60, file).opened(name_of(7), lambda: SECRET, 5) == SECRET  # others do not wait
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_for_a_time_only() -> None:
    keks = SharedKeks(0.2, create_file())
    keks.opened(NAME, lambda: SECRET, 1)
    assert keks.get(NAME) == SECRET
    assert keks.get(name_of(1)) is None
    time.sleep(0.3)
    assert keks.get(NAME) is None
    keks.sweep()
    assert SECRET not in bytes(keks._shared)


def test_the_oldest_makes_room() -> None:
    keks = SharedKeks(60, create_file())
    count = 2 * limits.OPENED_KEKS
    for number in range(count):
        assert keks.opened(name_of(number), lambda: SECRET, 1) == SECRET
    assert keks.get(name_of(count - 1)) == SECRET
    assert sum(keks.get(name_of(number)) is not None for number in range(count)) <= limits.OPENED_KEKS


def test_the_memory_is_locked_and_not_dumped() -> None:
    keks = SharedKeks(60, create_file())
    maps = Path("/proc/self/smaps").read_text().split("memfd:keys")
    assert any({"lo", "dd"} <= set(part.partition("VmFlags:")[2].partition("\n")[0].split()) for part in maps[1:])
    assert keks.get(NAME) is None

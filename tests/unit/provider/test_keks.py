"""Opened key-encryption keys: for a time only, in memory that is locked and not dumped, and wiped."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from decoder import limits
from decoder.provider.errors import ProviderError
from decoder.provider.keks import Keks

SECRET = b"a secret that is in no other place"


def test_for_a_time_only() -> None:
    opened = Keks(0.2)
    opened.opened(b"1", lambda: SECRET, 1)
    assert opened.get(b"1") == SECRET
    assert opened.get(b"2") is None
    time.sleep(0.3)
    opened.sweep()
    assert opened.get(b"1") is None
    assert SECRET not in bytes(opened._memory)


def test_the_oldest_makes_room() -> None:
    opened = Keks(60)
    for number in range(limits.OPENED_KEKS + 3):
        opened.opened(b"%d" % number, partial(bytes, b"%d" % number), 1)
    kept = [number for number in range(limits.OPENED_KEKS + 3) if opened.get(b"%d" % number) == b"%d" % number]
    assert kept == list(range(3, limits.OPENED_KEKS + 3))


def test_a_key_that_is_kept_is_not_opened_again() -> None:
    opened = Keks(60)
    assert opened.opened(b"1", lambda: SECRET, 1) == SECRET
    assert opened.opened(b"1", lambda: b"another", 1) == SECRET


def test_callers_that_ask_at_the_same_time_wait_for_one_answer() -> None:
    opened = Keks(60)
    started, calls = threading.Barrier(9), []

    def open_it() -> bytes:
        calls.append(1)
        time.sleep(0.5)
        return SECRET

    def ask(_: int) -> bytes:
        started.wait()
        return opened.opened(b"1", open_it, 30)

    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(ask, range(9))) == [SECRET] * 9
    assert len(calls) == 1


def test_a_failure_is_told_to_those_who_wait_and_not_kept() -> None:
    opened = Keks(60)
    entered, leave = threading.Event(), threading.Event()

    def fail() -> bytes:
        entered.set()
        leave.wait(120)
        raise ProviderError("it failed")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(opened.opened, b"1", fail, 30)
        entered.wait(120)
        late = pool.submit(opened.opened, b"1", fail, 0.1)
        with pytest.raises(ProviderError, match=r"no answer within 0\.1 seconds"):
            late.result(30)
        second = pool.submit(opened.opened, b"1", fail, 30)
        time.sleep(0.2)
        leave.set()
        for each in (first, second):
            with pytest.raises(ProviderError, match="it failed"):
                each.result(30)
    assert opened.opened(b"1", lambda: SECRET, 1) == SECRET


def test_what_is_too_long_is_not_kept() -> None:
    opened = Keks(60)
    opened.opened(b"1", lambda: bytes(65), 1)
    opened.opened(b"2", lambda: bytes(64), 1)
    assert (opened.get(b"1"), opened.get(b"2")) == (None, bytes(64))


def test_the_memory_is_locked_and_neither_dumped_nor_inherited() -> None:
    opened = Keks(60)
    opened.opened(b"1", lambda: SECRET, 1)
    size = limits.OPENED_KEKS * 64 // 1024
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    ours = [area for area in areas if re.search(rf"^Size: +{size} kB$", area, re.MULTILINE)]
    assert any({"lo", "dd", "dc"} <= set(area.partition("VmFlags:")[2].split()) for area in ours)

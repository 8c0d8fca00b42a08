"""Opened keys: for a time only, in memory that is locked and not dumped, and wiped."""

from __future__ import annotations

import re
import time
from pathlib import Path

from decoder import limits
from decoder.agent.openedkeys import OpenedKeys

SECRET = b"a secret that is in no other place"


def test_for_a_time_only() -> None:
    opened = OpenedKeys(0.2)
    opened.put(b"1", SECRET)
    assert opened.get(b"1") == SECRET
    assert opened.get(b"2") is None
    time.sleep(0.3)
    opened.sweep()
    assert opened.get(b"1") is None
    assert SECRET not in bytes(opened._memory)


def test_the_oldest_makes_room() -> None:
    opened = OpenedKeys(60)
    for number in range(limits.AGENT_OPENED_KEYS + 3):
        opened.put(b"%d" % number, b"%d" % number)
    kept = [number for number in range(limits.AGENT_OPENED_KEYS + 3) if opened.get(b"%d" % number) == b"%d" % number]
    assert kept == list(range(3, limits.AGENT_OPENED_KEYS + 3))


def test_the_same_name_again() -> None:
    opened = OpenedKeys(60)
    opened.put(b"1", SECRET)
    opened.put(b"1", b"short")
    assert opened.get(b"1") == b"short"
    assert SECRET[5:] not in bytes(opened._memory)


def test_what_is_too_long_is_not_kept() -> None:
    opened = OpenedKeys(60)
    opened.put(b"1", bytes(1025))
    opened.put(b"2", bytes(1024))
    assert (opened.get(b"1"), opened.get(b"2")) == (None, bytes(1024))


def test_the_memory_is_locked_and_neither_dumped_nor_inherited() -> None:
    opened = OpenedKeys(60)
    opened.put(b"1", SECRET)
    size = limits.AGENT_OPENED_KEYS * 1024 // 1024
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    (area,) = [area for area in areas if re.search(rf"^Size: +{size} kB$", area, re.MULTILINE) and " dd " in area]
    flags = area.partition("VmFlags:")[2].split()
    assert {"lo", "dd", "dc"} <= set(flags)

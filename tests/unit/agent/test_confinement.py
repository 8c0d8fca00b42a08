"""Descriptions of processes: each property counts, and the message names the one that differs."""

from __future__ import annotations

import os

import pytest

from decoder.agent.confinement import describe, first_difference, property_of

OURS = describe(os.getpid())


def test_a_process_is_like_itself() -> None:
    assert first_difference(OURS, describe(os.getpid())) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"),
        *("Label", "Namespace", "Root", "Max open files", "Max address space"),
    ],
)
def test_each_property_counts(name: str) -> None:
    """Among them the label of a security module, which not every machine has."""
    theirs = [f"{line}x" if property_of(line) == name else line for line in OURS]
    assert theirs != OURS
    assert first_difference(OURS, theirs) == name


def test_one_that_is_missing_or_too_many_counts() -> None:
    assert first_difference(OURS, OURS[:-1])
    assert first_difference(OURS, [*OURS, "more"])


def test_core_dumps_do_not_count() -> None:
    """The agent switches them off for itself."""
    assert not any("core" in line for line in OURS)


def test_a_process_that_is_gone() -> None:
    with pytest.raises(OSError, match="No such"):
        describe(2**22 + 1)

"""The system has too little memory for the decoder (RLIMIT_AS)."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from decoder import failure
from decoder.errors import ShortageError
from tests.support.keywrap.layers import encrypted
from tests.support.program.onelayer import PLAINTEXT, fails, run_layer
from tests.support.program.processes import ROOT

_START = "import sys; sys.path += {paths!r}; from decoder.__main__ import main; main()"


def with_memory(directory: Path, mib: int) -> str:
    """Write a program that is the decoder with so much memory; return its path."""
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (directory / "start.py").write_text(_START.format(paths=paths))
    program = directory / "limited"
    program.write_text(f'#!/bin/bash\nexec prlimit --as={mib << 20} {sys.executable} -IS {directory}/start.py "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("mib", [24, 28, 32])
def test_too_little_memory_is_said_in_one_line(mib: int, tmp_path: Path) -> None:
    result = run_layer(encrypted(PLAINTEXT), program=with_memory(tmp_path, mib))
    fails(result, 8, f"there is not enough memory: RLIMIT_AS is {mib} MiB; raise it to 128 MiB")
    assert result.errors.count("\n") == 1
    assert result.plaintext == b""


def test_as_much_memory_as_is_recommended_is_enough(tmp_path: Path) -> None:
    layer = encrypted(bytes(9_000_000))  # a second thread is started
    assert run_layer(layer, program=with_memory(tmp_path, 128)) == (0, layer.plaintext, "")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_a_lack_of_memory_anywhere(error: Exception) -> None:
    assert failure.status(error) == ShortageError.status
    assert failure.message(error).startswith("there is not enough memory: ")

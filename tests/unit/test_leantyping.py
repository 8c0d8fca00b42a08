"""The substitute for `typing` while a layer is decrypted, and how the real module is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.program.processes import ROOT

_PREPARED = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from decoder import leantyping; import typing\n"
_IS_LEAN = "assert type(typing).__name__ == '_Typing' and 're' not in sys.modules, sorted(sys.modules)\n"
_IS_REAL = "assert type(typing) is type(sys) and sys.modules['typing'] is typing and typing.__file__, typing\n"


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-IS", "-c", _PREPARED + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "program",
    [
        "from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar, Union, cast, overload",
        "assert not typing.TYPE_CHECKING and typing.cast('int', 5) == 5 and typing.overload(len) is len",
        "Alias = typing.Union[int, None]; Optional = typing.Optional[int] | None; Other = None | typing.Any",
        "T = typing.TypeVar('T', bound=int); pairs = list[tuple[T, T]]; assert pairs[int]",
        "T = typing.TypeVar('T')\nclass A(typing.Generic[T]):\n  pass\nclass B(A[int]):\n  pass\nB()",
        "assert not hasattr(typing, '__path__')",
    ],
)
def test_what_a_layer_needs_does_not_load_it(program: str) -> None:
    run(f"{program}\n{_IS_LEAN}")


@pytest.mark.parametrize(
    "program",
    [
        "class Point(typing.NamedTuple):\n  x: int\nassert Point(3).x == 3",
        "from typing import *\nassert Callable[[int], Any]",
        "from typing import Protocol, runtime_checkable",
        "leantyping.load(); leantyping.load()",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: 'typing.ClassVar[int]' = 3\n"
        "assert not dataclasses.fields(A)",
        "assert not hasattr(typing, 'NoSuchName')",
    ],
)
def test_any_other_name_loads_it(program: str) -> None:
    run(f"from typing import Any as early\n{program}\n{_IS_REAL}assert typing.Union[int, str] == int | str")


def test_what_was_made_before_still_works() -> None:
    run(
        "T = typing.TypeVar('T')\nclass A(typing.Generic[T]):\n  pass\nAlias = typing.Optional[A[int]]\n"
        "leantyping.load()\nclass B(A[str]):\n  pass\nassert isinstance(B(), A) and typing.List[Alias]\n"
    )


def test_a_process_that_has_typing_keeps_it() -> None:
    run("leantyping.load()\nimport importlib; importlib.reload(leantyping)\n" + _IS_REAL)

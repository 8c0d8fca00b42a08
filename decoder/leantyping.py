"""A stand-in for `typing`, which puts off the import of the real module. Importing this module installs it.

`cryptography` imports typing at every start, and uses only the names below, in annotations. The real module, with all
that it imports (re, contextlib), takes 17 of the 100 million instructions of a small layer. Asking the stand-in for any
other name loads the real module. This is for a process that decrypts one layer: commands and the agent call `load`.
"""

from __future__ import annotations

import sys
from types import ModuleType


def load() -> None:
    """Load the real module, if that has not happened yet."""
    typing = sys.modules["typing"]
    if isinstance(typing, _Typing):
        from importlib import reload

        object.__setattr__(typing, "__class__", ModuleType)  # without our __getattr__
        reload(typing)  # into the same module object, so that its earlier importers have the real module now


class _Typing(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # every `from typing import` asks whether this is a package
            raise AttributeError(name)
        load()
        return getattr(self, name)


class _Form:
    """A stand-in for forms such as Union and for type variables, which occur in annotations and type aliases."""

    __parameters__ = ()

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass

    def __getitem__(self, _item: object) -> _Form:
        return self

    def __or__(self, _other: object) -> _Form:
        return self

    __ror__ = __or__

    def __typing_subst__(self, argument: object) -> object:  # how `list[T][int]` replaces T
        return argument


class _Generic:
    def __class_getitem__(cls, _item: object) -> type[_Generic]:
        return cls


def _put_off() -> None:
    typing = _Typing("typing")
    names = {"TYPE_CHECKING": False, "Any": _Form(), "Union": _Form(), "Optional": _Form(), "Generic": _Generic}
    functions = {"TypeVar": _Form, "cast": lambda _type, value: value, "overload": lambda function: function}
    typing.__dict__.update(names | functions)
    sys.modules["typing"] = typing


if "typing" not in sys.modules:
    _put_off()

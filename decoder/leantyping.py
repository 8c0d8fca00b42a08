"""Put off the import of `typing` until the program needs more of it than a layer does; importing this module does that.

`cryptography` imports typing at every start, which takes 17 of 100 million instructions of a small layer with all that
it brings along (re, contextlib), and needs no more of it than the names below, in annotations. They stand in for the
real ones until somebody asks for any other name; from then on it is the module of the standard library. All of this is
for a process that decrypts one layer: commands and the agent call `load` first.
"""

from __future__ import annotations

import sys
from types import ModuleType


def load() -> None:
    """Load the real module, if that has not happened yet."""
    typing = sys.modules["typing"]
    if isinstance(typing, _Typing):
        from importlib import reload

        object.__setattr__(typing, "__class__", ModuleType)  # it looks for names in itself alone, as every module does
        reload(typing)  # into the same module, so that earlier importers have the real one now


class _Typing(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # every `from typing import` asks whether this is a package
            raise AttributeError(name)
        load()
        return getattr(self, name)


class _Form:
    """A form such as Union, or a type variable: something that stands in annotations and aliases of types."""

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

"""Records: the fields of a NamedTuple without the cost of creating the class at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["Record"]

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from _collections import _tuplegetter  # how a NamedTuple reads its fields

    class Record(tuple):
        """A base for immutable records; type checkers see `typing.NamedTuple`.

        `NamedTuple` compiles a constructor and parses every annotation for each class. For the classes of one
        layer that is 15 of 130 million instructions at every start of the program. This base has one constructor
        for all of them, and offers what the project uses: fields by name, defaults, `_replace` and `_asdict`.
        """

        __slots__ = ()
        _defaults: dict[str, object] = {}  # noqa: RUF012 - every subclass has its own
        __match_args__ = ()

        def __init_subclass__(cls) -> None:
            fields = tuple(cls.__annotations__)
            if not fields:  # a subclass of a record, with methods of its own
                return
            cls.__match_args__ = fields
            cls._defaults = {name: cls.__dict__[name] for name in fields if name in cls.__dict__}
            for place, name in enumerate(fields):
                setattr(cls, name, _tuplegetter(place, None))

        def __new__(cls, *values: object, **named: object) -> Record:  # noqa: D102
            fields = cls.__match_args__
            if named or len(values) != len(fields):
                rest = fields[len(values) :]
                given = {**cls._defaults, **named}
                if len(values) > len(fields) or not named.keys() <= set(rest) <= given.keys():
                    raise TypeError(f"{cls.__name__} takes {', '.join(fields)}")
                values += tuple([given[name] for name in rest])
            return tuple.__new__(cls, values)

        def _replace(self, **named: object) -> Record:
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self) -> dict[str, object]:
            return dict(zip(self.__match_args__, self, strict=True))

        def __repr__(self) -> str:
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

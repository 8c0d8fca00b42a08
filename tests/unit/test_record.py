"""Records behave as the NamedTuples that type checkers take them for."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from decoder.record import Record


class Ours(Record):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()


class Theirs(NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "named"),
    [((1,), {}), ((1, "b"), {}), ((1, "b", (3,)), {}), ((), {"first": 1}), ((1,), {"third": (3,)})],
)
def test_is_made_and_read_as_a_named_tuple_is(values: tuple[object, ...], named: dict[str, object]) -> None:
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)  # type: ignore[arg-type]
    assert tuple(ours) == tuple(theirs)
    assert (ours.first, ours.second, ours.third) == (theirs.first, theirs.second, theirs.third)
    assert ours._asdict() == theirs._asdict()
    assert tuple(ours._replace(first=7)) == tuple(theirs._replace(first=7))
    assert isinstance(ours._replace(first=7), Ours)
    assert repr(ours).removeprefix("Ours") == repr(theirs).removeprefix("Theirs")
    assert hash(ours) == hash(theirs)


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, "b", (), 4), {}), ((1,), {"fourth": 4}), ((1,), {"first": 1}), ((1, "b", ()), {"third": ()})],
)
def test_wrong_values_are_type_errors(values: tuple[object, ...], named: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Theirs(*values, **named)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Ours(*values, **named)  # type: ignore[arg-type]


def test_fields_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Ours(1).first = 2  # type: ignore[misc]


def test_a_subclass_keeps_the_fields() -> None:
    class WithMethod(Ours):
        def doubled(self) -> int:
            return 2 * self.first

    assert WithMethod(2, third=(1,)).doubled() == 4
    assert WithMethod(2) == Ours(2)

"""Messages of containerd's services."""

from __future__ import annotations

import pytest

from decoder.formats import containerd


def test_reads_what_it_wrote() -> None:
    labels = {"a": "b", "": "c"}
    message = containerd.build({1: 7, 2: "text", 3: labels, 4: containerd.build({1: b"inner"}), 5: 0, 6: ""})
    fields = containerd.parse(message)
    assert sorted(fields) == [1, 2, 3, 4]
    assert (containerd.integer(fields, 1), containerd.text(fields, 2), containerd.mapping(fields, 3)) == (
        7,
        "text",
        labels,
    )
    assert containerd.content(containerd.nested(fields, 4), 1) == b"inner"


def test_a_field_of_another_type_is_malformed() -> None:
    fields = containerd.parse(containerd.build({1: 7, 2: "text"}))
    for read in (containerd.content, containerd.text, containerd.nested):
        with pytest.raises(ValueError, match=r"^field 1 is a number$"):
            read(fields, 1)
    with pytest.raises(ValueError, match=r"^field 2 is not a number$"):
        containerd.integer(fields, 2)

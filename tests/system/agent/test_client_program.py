"""The client that these tests use is what the compiler makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.program import client_program

if TYPE_CHECKING:
    from tests.support.program.agent import Place


def test_a_client_that_was_compiled_for_another_place(place: Place, tmp_path: Path) -> None:
    defines = client_program.options(str(place.directory), place.socket.name, False, 60_000)
    client_program.compile_to(tmp_path / "client", defines)
    assert (tmp_path / "client").read_bytes() == Path(place.client).read_bytes()

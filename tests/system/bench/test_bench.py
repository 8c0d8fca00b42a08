"""The bench: it measures what it says, and refuses figures of programs that did not decrypt."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import decoders
from bench.figures import Figure, rows, write_figures
from bench.layers import make_layer
from bench.plot import draw
from bench.programs import PACKAGE, REFERENCE, Run, RunError, run
from tests.support import processes

PROGRAMS = {REFERENCE: Path(processes.REFERENCE), "pip": Path(processes.PROGRAM)}
SMALLEST = decoders.Extent(decoders.SMALL_BYTES, 2)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
README_BYTES = 200_000


def test_what_is_measured_is_kept_and_drawn(tmp_path: Path) -> None:
    parts = (decoders.scheme, decoders.size, decoders.at_once)
    measured = [figure for part in parts for figure in part(PROGRAMS, SMALLEST)]
    assert [(figure.part, figure.amount, len(figure.runs["pip"])) for figure in measured] == [
        *[("scheme", 246, 2)] * 6,
        *[("size", 0, 2), ("size", 246, 2)],
        *[("at-once", 16, 1), ("at-once", 64, 1)],
    ]
    for figure in measured:
        assert all(each.wall > 0 for name in PROGRAMS for each in figure.runs[name])
        assert [row.count("|") for row in rows(figure)] == [8]
    figures, kept = tmp_path / "figures.json", measured[:6]
    assert write_figures(figures, "a machine", measured) == measured
    assert write_figures(figures, "a machine", kept) == [*kept, *measured[6:]], "parts measured earlier stay"
    draw(measured, tmp_path / "speed.png")
    picture = (tmp_path / "speed.png").read_bytes()
    assert picture.startswith(SIGNATURE)
    assert len(picture) < README_BYTES


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    runs = {REFERENCE: [Run(wall) for wall in (1, 2, 10)], PACKAGE: [Run(wall) for wall in (3, 2, 20)]}
    figure = Figure("layers", "", 1, runs)
    assert figure.spread(REFERENCE) == (1.5, 2, 6)
    assert figure.ratio(PACKAGE) == 2


@pytest.mark.parametrize(
    ("program", "message"),
    [("false", "ended with status 1"), ("cat", "something else"), ("nothing", "cannot be started")],
)
def test_a_program_that_does_not_decrypt_has_no_figures(program: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(Path("/bin", program), make_layer(decoders.SMALL_BYTES), check_bytes=True)

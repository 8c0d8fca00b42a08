"""The bench: it measures what it says, and refuses figures of programs that did not decrypt."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.decoders import PACKAGE, REFERENCE
from bench.figures import Figure, Report, read_report, rows, write_report
from bench.layers import SMALL_BYTES, make_layer
from bench.ours import keyprovider_load
from bench.parts import PARTS, Extent
from bench.plot import draw
from bench.run import Run, RunError, at_once, run
from tests.support import processes

PROGRAMS = {REFERENCE: Path(processes.REFERENCE), "pip": Path(processes.PROGRAM)}
SMALLEST = Extent((SMALL_BYTES,), (SMALL_BYTES,), (2,), (2,), SMALL_BYTES, (2, 1))
SIGNATURE = b"\x89PNG\r\n\x1a\n"
README_BYTES = 200_000


def test_every_part_is_measured_kept_and_drawn(tmp_path: Path) -> None:
    figures = [figure for name, measure in PARTS.items() if name != "image" for figure in measure(PROGRAMS, SMALLEST)]
    assert [(figure.part, len(figure.runs["pip"])) for figure in figures] == [
        *[("single", 2)] * 6,
        ("size", 2),
        *[("layers", 1)] * 2,
        ("parallel", 1),
    ]
    for figure in figures:
        assert all(each.wall > 0 for runs in figure.runs.values() for each in runs)
        assert [row.count("|") for row in rows(figure, list(PROGRAMS))] == [len(PROGRAMS) + 3]
    write_report(tmp_path / "figures.json", Report("a machine", figures))
    report = read_report(tmp_path / "figures.json")
    assert [figure[:3] for figure in report.figures] == [figure[:3] for figure in figures]
    draw(report, tmp_path / "speed.png")
    picture = (tmp_path / "speed.png").read_bytes()
    assert picture.startswith(SIGNATURE)
    assert len(picture) < README_BYTES


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    runs = {REFERENCE: [Run(wall) for wall in (1, 2, 10)], PACKAGE: [Run(wall) for wall in (3, 2, 20)]}
    figure = Figure("layers", "", 1, runs)
    assert figure.spread(REFERENCE) == (1.5, 2, 6)
    assert figure.ratio(PACKAGE) == 2


def test_several_decoders_at_once_have_a_layer_each() -> None:
    assert at_once(make_layer(SMALL_BYTES), 3)(PROGRAMS["pip"], True).wall > 0


@pytest.mark.parametrize(
    ("program", "message"),
    [("false", "ended with status 1"), ("cat", "something else"), ("nothing", "cannot be started")],
)
def test_a_program_that_does_not_decrypt_has_no_figures(program: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(Path("/bin", program), make_layer(SMALL_BYTES), check_bytes=True)


def test_clients_of_a_keyprovider_are_all_answered() -> None:
    """A call that fails, or a server that does not end well, is an error of the measurement."""
    (row,) = keyprovider_load(200, 4)
    assert "200 unwraps by 4 clients" in row.what

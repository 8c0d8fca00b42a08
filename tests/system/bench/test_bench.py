"""The bench: it measures what it says, and refuses figures of programs that did not decrypt."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import table
from bench.figures import REFERENCE, Figure, Report, read_report, write_report
from bench.layer import make_layer
from bench.parts import PARTS, SMALL_BYTES, Extent, Rounds
from bench.plot import draw
from bench.run import Run, RunError, run
from tests.support import processes

PROGRAMS = {REFERENCE: Path(processes.REFERENCE), "pip": Path(processes.PROGRAM)}
SMALLEST = Extent(
    single=(SMALL_BYTES,),
    single_rounds=Rounds(2, 0, 0, 0),
    growing=(SMALL_BYTES,),
    growing_rounds=Rounds(2, 0, 0, 0),
    layers=(2,),
    parallel=(2,),
    parallel_bytes=SMALL_BYTES,
    image=0,
    several=1,
)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
README_BYTES = 200_000


def test_every_part_is_measured_kept_and_drawn(tmp_path: Path) -> None:
    figures = [figure for name, measure in PARTS.items() if name != "image" for figure in measure(PROGRAMS, SMALLEST)]
    assert [(figure.part, len(figure.runs["pip"])) for figure in figures] == [
        *[("single", 2)] * 6,
        ("size", 2),
        ("layers", 1),
        ("parallel", 1),
    ]
    for figure in figures:
        assert all(each.wall > 0 for runs in figure.runs.values() for each in runs)
        assert [row.count("|") for row in table.rows(figure, list(PROGRAMS))] == [len(PROGRAMS) + 4]
    write_report(tmp_path / "figures.json", Report("a machine", figures))
    report = read_report(tmp_path / "figures.json")
    assert [figure[:3] for figure in report.figures] == [figure[:3] for figure in figures]
    draw(report, tmp_path / "speed.png")
    picture = (tmp_path / "speed.png").read_bytes()
    assert picture.startswith(SIGNATURE)
    assert len(picture) < README_BYTES


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    runs = {REFERENCE: [Run(wall, 0, 0) for wall in (1, 2, 10)], "pip": [Run(wall, 0, 0) for wall in (3, 2, 20)]}
    figure = Figure("layers", "", 1, runs)
    assert figure.spread(REFERENCE) == (1.5, 2, 6)
    assert figure.ratio("pip") == 2


@pytest.mark.parametrize(
    ("program", "message"),
    [("false", "ended with status 1"), ("cat", "something else"), ("nothing", "cannot be started")],
)
def test_a_program_that_does_not_decrypt_has_no_figures(program: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(Path("/bin", program), make_layer(SMALL_BYTES), check_bytes=True)

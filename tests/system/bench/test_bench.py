"""The bench: it measures what it says, and refuses figures of programs that did not decrypt."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from bench import __main__ as program
from bench import decoders
from bench.layers import SMALL_BYTES, make_layer
from bench.programs import PACKAGE, REFERENCE, Bench, RunError, run
from bench.report import documents
from bench.report.figures import HEADER, Figure, read_figures, write_figures
from bench.report.plot import draw
from tests.support.program import processes

SMALLEST = Bench({REFERENCE: Path(processes.REFERENCE), "pip": Path(processes.PROGRAM)}, SMALL_BYTES, 2)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
README_BYTES = 200_000
BENCH = Path(processes.ROOT, "bench")


def figure(part: str, what: str, *ratios: float, unit: str = "time") -> Figure:
    ones = [1.0] * len(ratios)
    return Figure(what, unit, {REFERENCE: ones, PACKAGE: list(ratios)}, part, f"a machine for {part}")


def test_what_is_measured_is_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[None] = []  # no agents are stopped here: other tests may have some
    monkeypatch.setattr(decoders, "stop_agent", lambda: stops.append(None))
    measured = [
        figure._replace(part=part)
        for part in ("scheme", "size", "at-once")
        for figure in decoders.decrypt(part, SMALLEST)
    ]
    assert [(each.part, each.unit, len(each.runs["pip"])) for each in measured] == [
        *[("scheme", "time", 2)] * 6,
        *[("size", "time", 2)] * 2,
        *[("at-once", "time", 1)] * 2,
    ]
    assert len(stops) == 6 * 2 + 2 * 2 + 2, "pip begins without an agent in every turn"
    for each in measured:
        assert all(taken > 0 for name in SMALLEST.programs for taken in each.runs[name])
        assert each.row().count("|") == 8
    assert read_figures(tmp_path / "figures.json") == []
    write_figures(tmp_path / "figures.json", measured)
    assert read_figures(tmp_path / "figures.json") == measured
    draw(measured, tmp_path / "speed.png")
    picture = (tmp_path / "speed.png").read_bytes()
    assert picture.startswith(SIGNATURE)
    assert len(picture) < README_BYTES


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    runs = {REFERENCE: [1.0, 2.0, 10.0], PACKAGE: [3.0, 2.0, 20.0], "a bound": [1.0, 1.0, 1.0]}
    time = Figure("a layer", "time", runs)
    assert time.ratio(PACKAGE) == 2
    cells = "2.00 s (1.50 to 6.00) | 3.00 s (2.50 to 11.5) **2.00** | - | - | -"
    assert time.row() == f"| a layer (a bound: 1.00 s (1.00 to 1.00)) | 3 | {cells} |"
    rate = time._replace(unit="rate", runs={name: [1e8 * run for run in each] for name, each in runs.items()})
    assert "200 MB/s (150 to 600), 200% | 300 MB/s (250 to 1150) **2.00**, 300%" in rate.row()


def test_documents_show_the_figures_and_keep_what_was_not_measured(tmp_path: Path) -> None:
    document = tmp_path / "RESULTS.md"
    around = "# Title\n\n<!-- machines -->\n\n{}\n<!-- table: layers size -->\n\n{}\nEnd.\n"
    document.write_text(
        around.format("- x\n", "| old |\n") + "\n<!-- bench/report/speed.template -->\n\n- as it was\n\nText.\n"
    )
    shown = [figure("layers", "one", 0.5), figure("size", "two", 3.0), figure("pull", "three", 1.0)]
    documents.write(document, shown)
    machines = "".join(f"- {part}: a machine for {part}.\n" for part in ("layers", "size", "pull"))
    table = "".join(f"{line}\n" for line in (*HEADER, shown[0].row(), shown[1].row()))
    text = document.read_text()
    assert text == around.format(machines, table) + "\n<!-- bench/report/speed.template -->\n\n- as it was\n\nText.\n"
    documents.write(document, shown)
    assert document.read_text() == text


def test_a_part_replaces_its_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"layers": figure("layers", "one", 0.5), "size": figure("size", "two", 3.0)}
    parts = {name: partial(lambda name, _: iter([measured[name]]), name) for name in measured}
    monkeypatch.setattr(program, "_PARTS", parts)
    (tmp_path / "RESULTS.md").write_text("<!-- table: layers -->\n\n- x\n\n<!-- table: size -->\n\n- x\n")
    program._measure(["size", "layers"], SMALLEST, tmp_path)
    measured["size"] = figure("size", "three", 1.0)
    program._measure(["size"], SMALLEST, tmp_path)
    kept = read_figures(tmp_path / "figures.json")
    assert [each.what for each in kept] == ["one", "three"]
    assert all("cores" in each.machine for each in kept)
    tables = (tmp_path / "RESULTS.md").read_text().split("<!-- table: size -->")
    assert [(kept[0].row() in table, kept[1].row() in table, "two" in table) for table in tables] == [
        (True, False, False),
        (False, True, False),
    ]


def test_the_documents_of_the_project_show_its_figures(tmp_path: Path) -> None:
    """`python -m bench --into bench` writes them; nobody copies numbers by hand."""
    figures = read_figures(BENCH / "figures.json")
    assert len(figures) == len(json.loads((BENCH / "figures.json").read_text())) > 40
    for source in (BENCH / "RESULTS.md", BENCH.parent / "README.md"):
        copy = tmp_path / source.name
        copy.write_text(source.read_text())
        documents.write(copy, figures)
        assert copy.read_text() == source.read_text()


def test_every_row_of_layers_is_measured() -> None:
    """If a case is renamed or dropped, its rows in RESULTS.md are to be measured again."""
    for part, cases in decoders.CASES.items():
        rows = [each.what for each in read_figures(BENCH / "figures.json") if each.part == part]
        assert rows
        assert [what for what in rows if not what.startswith(tuple(case.what for case in cases))] == []


@pytest.mark.parametrize(
    ("command", "message"),
    [("false", "ended with status 1"), ("cat", "something other"), ("nothing", "cannot be started")],
)
def test_a_program_that_does_not_decrypt_has_no_figures(command: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(Path("/bin", command), make_layer(SMALL_BYTES), check_bytes=True)

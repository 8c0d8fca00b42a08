"""The plot that the README shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from bench.decoders import PACKAGE, PIP, REFERENCE, WARM
from bench.figures import BOUND, HMAC_ALONE, Figure, Report, of_part
from bench.layers import SMALL_BYTES
from bench.parts import RSA
from bench.run import size_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Half-way between the pages of a light and of a dark theme, whose colour shows through.
_INK = "#7d8590"
_COLOURS = {
    REFERENCE: "#d2742f",
    PACKAGE: "#2f81f7",
    PIP: "#2aa198",
    WARM: "#a371f7",
    HMAC_ALONE: _INK,
    BOUND: "#b58900",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.markersize": 4,
}
_SLANTED: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
_DOTS_PER_INCH = 120


def draw(report: Report, path: Path) -> None:
    """Draw what a report has figures for, as a PNG with a background that one can see through."""
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(11, 6.6), layout="constrained")
        for axes, panel in zip(canvas.subplots(2, 3).flat, _PANELS, strict=True):
            panel(axes, report.figures)
        handles: dict[str, Artist] = {}
        for axes in canvas.axes:
            shapes, labels = axes.get_legend_handles_labels()
            handles.update(zip(map(str, labels), shapes, strict=True))
        canvas.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(_COLOURS))
        canvas.savefig(path, dpi=_DOTS_PER_INCH, transparent=True)


def _image(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_title("an image of 21 layers, seconds")
    for figure in of_part(figures, "image"):
        for place, program in enumerate(figure.runs):
            low, middle, high = figure.spread(program)
            axes.bar(place, middle, 0.6, color=_COLOURS[program], label=program)
            axes.errorbar(place, middle, [[middle - low], [high - middle]], color=_INK, capsize=3)
            ratio = "" if program == REFERENCE else f"{figure.ratio(program):.2f}"
            axes.annotate(ratio, (place, high), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks([])
    axes.grid(visible=False, axis="x")


def _ratio_by_size(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_title(f"{RSA}, ratio of time (faint: other schemes)")
    chosen = of_part(figures, "single")
    sizes = sorted({figure.amount for figure in chosen})
    for scheme in dict.fromkeys(figure.scheme for figure in chosen):
        of_scheme = of_part(figures, "single", scheme)
        for program in _ours(of_scheme):
            places = [sizes.index(figure.amount) for figure in of_scheme]
            ratios = [figure.ratio(program) for figure in of_scheme]
            style = {"marker": "o", "label": program} if scheme == RSA else {"alpha": 0.3}
            axes.plot(places, ratios, color=_COLOURS[program], **style)
    axes.set_xticks(range(len(sizes)), map(_short, sizes), **_SLANTED)
    _even(axes)


def _ratio_by_scheme(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_title(f"a layer of {SMALL_BYTES} bytes, ratio of time")
    chosen = [figure for figure in of_part(figures, "single") if figure.amount == SMALL_BYTES]
    programs = _ours(chosen)
    for number, program in enumerate(programs):
        width = 0.8 / len(programs)
        places = [place + (number - (len(programs) - 1) / 2) * width for place in range(len(chosen))]
        ratios = [figure.ratio(program) for figure in chosen]
        axes.bar(places, ratios, width, color=_COLOURS[program], label=program)
    names = [figure.scheme.replace("`", "") for figure in chosen]
    axes.set_xticks(range(len(chosen)), names, **_SLANTED)
    axes.grid(visible=False, axis="x")
    axes.axhline(1, color=_COLOURS[REFERENCE])


def _growth(part: str, title: str, axes: Axes, figures: Sequence[Figure]) -> None:
    """Draw the time of each program over the amounts, with the quartiles as a band."""
    axes.set_title(title)
    chosen = of_part(figures, part, "back to back" if part == "layers" else "")
    amounts = [figure.amount for figure in chosen]
    for program in chosen[0].runs if chosen else ():
        low, middle, high = zip(*(figure.spread(program) for figure in chosen), strict=True)
        dashes = "--" if program in (HMAC_ALONE, BOUND) else "-"
        axes.plot(amounts, middle, dashes, marker="o", color=_COLOURS[program], label=program)
        axes.fill_between(amounts, low, high, color=_COLOURS[program], alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(amounts, map(_short if part == "size" else str, amounts))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _pulls(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_title("pulls through containerd, ratio of time")
    chosen = [figure for figure in figures if figure.part == "pull"]
    for place, figure in enumerate(chosen):
        (program,) = _ours([figure])
        axes.bar(place, figure.ratio(program), 0.7, color=_COLOURS[program], label=program)
    axes.set_xticks(range(len(chosen)), [figure.scheme.rpartition(",")[0] for figure in chosen], **_SLANTED)
    axes.grid(visible=False, axis="x")
    axes.axhline(1, color=_COLOURS[REFERENCE])


_PANELS: tuple[Callable[[Axes, Sequence[Figure]], None], ...] = (
    _image,
    _ratio_by_size,
    _ratio_by_scheme,
    partial(_growth, "size", "one layer, seconds"),
    partial(_growth, "layers", f"many layers of {SMALL_BYTES} bytes, seconds"),
    _pulls,
)


def _ours(figures: Sequence[Figure]) -> list[str]:
    return [program for program in figures[0].runs if program != REFERENCE] if figures else []


def _even(axes: Axes) -> None:
    """Mark where both take the same time."""
    axes.set_yscale("log")
    axes.axhline(1, color=_COLOURS[REFERENCE])
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
    axes.minorticks_off()


def _short(size: int) -> str:
    return size_text(size).replace("-byte", " B")

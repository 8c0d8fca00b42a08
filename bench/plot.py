"""The plot that the README shows: everywhere the time of ours divided by the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from bench.programs import PACKAGE, PIP, PIP_WARM, WARM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.figures import Figure

_INK = "#7d8590"  # half-way between a light and a dark page, which shows through
_COLOURS = {PACKAGE: "#2f81f7", WARM: "#a371f7", PIP: "#2aa198", PIP_WARM: "#b58900"}
_WIDTH = 0.2  # of a bar
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "grid.color"), _INK),
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
_PANELS = {
    "images, and small layers one after another": ("image", "layers"),
    "layers by size": ("size",),
    "layers by scheme": ("scheme",),
    "pulls through containerd": ("pull",),
}
_SHORTER = {"an image of 21 layers": "21-layer image", "the image of 21 layers": "21-layer image",
            **dict.fromkeys(("layers of 246 bytes, ", "pull through containerd ", " layers", " layer", "`"), ""),
            ", pipe to pipe": ""}  # fmt: skip


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw what there are figures for, as a PNG with a transparent background."""
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(11, 7.5), layout="constrained")
        for axes, (title, parts) in zip(canvas.subplots(2, 2).flat, _PANELS.items(), strict=True):
            axes.set_title(f"{title}: ours / reference, time")
            _bars(axes, [figure for figure in figures if figure.part in parts and figure.amount])
        bars = [Patch(color=colour, label=program) for program, colour in _COLOURS.items()]
        canvas.legend(handles=bars, loc="outside lower center", ncols=len(bars))
        canvas.savefig(path, dpi=120, transparent=True)


def _bars(axes: Axes, figures: Sequence[Figure]) -> None:
    """Draw a group of bars for each figure; below the line at 1, ours is faster."""
    names = [figure.what for figure in figures]
    for long, short in _SHORTER.items():
        names = [name.replace(long, short) for name in names]
    for number, (program, colour) in enumerate(_COLOURS.items()):
        places = [place + (number - 1.5) * _WIDTH for place, figure in enumerate(figures) if program in figure.runs]
        ratios = [figure.ratio(program) for figure in figures if program in figure.runs]
        axes.bar(places, ratios, _WIDTH, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.grid(visible=False, axis="x")
    axes.axhline(1, color=_INK)

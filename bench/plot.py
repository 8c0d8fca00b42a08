"""The plot that the README shows: everywhere the time of ours divided by the reference's."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import StrMethodFormatter

from bench.figures import Figure
from bench.programs import PACKAGE, PIP, PIP_WARM, WARM

_INK = "#7d8590"  # half-way between a light and a dark page, which shows through
_COLOURS = {PACKAGE: "#2f81f7", WARM: "#a371f7", PIP: "#2aa198", PIP_WARM: "#b58900"}
_WIDTH = 0.2  # of a bar
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("font.size", "legend.fontsize", "axes.titlesize"), 9),
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
}
_PANELS = {
    "images, and small layers one after another": ("image", "layers"),
    "layers by size": ("size",),
    "layers by scheme": ("scheme",),
    "pulls through containerd": ("pull",),
}
# What the title of a panel says already.
_LEFT_OUT = r"layers of 246 bytes, |pull through containerd |, pipe to pipe|\b(an?|the) (layer of )?| layers?\b|`"


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw what there are figures for, as a PNG with a transparent background."""
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(11, 7.5), layout="constrained")
        for axes, (title, parts) in zip(canvas.subplots(2, 2).flat, _PANELS.items(), strict=True):
            axes.set_title(f"{title}: ours / reference, time")
            _bars(axes, [figure for figure in figures if figure.part in parts and figure.unit == "time"])
        canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_COLOURS))
        canvas.savefig(path, dpi=120, transparent=True)


def _bars(axes: Axes, figures: Sequence[Figure]) -> None:
    """Draw a group of bars for each figure; below the line at 1, ours is faster."""
    for number, (program, colour) in enumerate(_COLOURS.items()):
        bars = {place: figure.ratio(program) for place, figure in enumerate(figures) if program in figure.runs}
        places = [place + (number - 1.5) * _WIDTH for place in bars]
        axes.bar(places, list(bars.values()), _WIDTH, color=colour, label=program)
    names = [re.sub(_LEFT_OUT, "", figure.what) for figure in figures]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.axhline(1, color=_INK)

"""The plot that the README shows: the time of ours divided by the reference's. plot.mplstyle is its style."""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.programs import PROGRAMS, REFERENCE
from bench.report.figures import Figure

_OURS = [program for program in PROGRAMS if program != REFERENCE]
_WIDTH = 0.2  # of a bar
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5)
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
    with mpl.rc_context(fname=Path(__file__).with_suffix(".mplstyle")):
        canvas = Canvas()
        for axes, (title, parts) in zip(canvas.subplots(2, 2).flat, _PANELS.items(), strict=True):
            axes.set_title(f"{title}: ours / reference, time")
            _bars(axes, [figure for figure in figures if figure.part in parts and figure.unit == "time"])
        canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_OURS))
        canvas.savefig(path)


def _bars(axes: Axes, figures: Sequence[Figure]) -> None:
    """Draw a group of bars for each figure; below the line at 1, ours is faster."""
    for number, program in enumerate(_OURS):
        ratios = {place: figure.ratio(program) for place, figure in enumerate(figures) if program in figure.runs}
        places = [place + (number - 1.5) * _WIDTH for place in ratios]
        axes.bar(places, list(ratios.values()), _WIDTH, label=program)
    names = [re.sub(_LEFT_OUT, "", figure.what) for figure in figures]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS, map(str, _TICKS))
    axes.minorticks_off()
    axes.axhline(1, color=mpl.rcParams["axes.edgecolor"])

"""The documents that show figures: RESULTS.md has the tables, the README some ratios.

Comments in them say what follows: a table of parts (`<!-- table: PART ... -->`), a list of what they were measured on
(`<!-- machines -->`), or the text of speed.template, in which `{ROW; PROGRAM}` stands for a program's ratio.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from bench.programs import REFERENCE
from bench.report.figures import HEADER, Figure

_TEMPLATE = Path(__file__).with_name("speed.template")
_ASKED = re.compile(r"(<!-- (table: .+|machines|bench/report/speed\.template) -->\n\n)((?:.+\n)*)")


def write(document: Path, figures: Sequence[Figure]) -> None:
    """Write figures where a document asks for them. A text for which not everything has been measured stays."""

    def follow(asked: re.Match[str]) -> str:
        name, _, parts = asked[2].partition(": ")
        if name == "table":
            rows = [figure.row() for figure in figures if figure.part in parts.split()]
            return asked[1] + "".join(f"{line}\n" for line in (*HEADER, *rows))
        return asked[1] + (_machines(figures) if name == "machines" else _speed(figures) or asked[3])

    document.write_text(_ASKED.sub(follow, document.read_text()))


def _machines(figures: Sequence[Figure]) -> str:
    parts: dict[str, dict[str, None]] = {}
    for figure in figures:
        parts.setdefault(figure.machine, {})[figure.part] = None
    return "".join(f"- {', '.join(names)}: {machine}.\n" for machine, names in parts.items())


def _speed(figures: Sequence[Figure]) -> str:
    compared = [(each, program) for each in figures if REFERENCE in each.runs for program in each.runs]
    ratios = {f"{each.what}; {program}": f"{each.ratio(program):.2g}" for each, program in compared}
    template = _TEMPLATE.read_text()
    if not ratios.keys() >= set(re.findall(r"{(.+?)}", template)):
        return ""
    lines = re.sub(r"{(.+?)}", lambda asked: ratios[asked[1]], template).splitlines()
    return "".join(f"{fill(line, 130, subsequent_indent='  ', break_on_hyphens=False)}\n" for line in lines)

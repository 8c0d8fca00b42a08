"""Write man pages and completions: `make reference`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from reference import completions, man

_NAMES = {"bash": "bash/ctd-decoder", "zsh": "zsh/_ctd-decoder", "fish": "fish/ctd-decoder.fish"}


def main() -> None:
    """Write the man pages to DIR/man and the completions to DIR/completions."""
    parser = argparse.ArgumentParser(prog="python -m reference", description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path)
    write(parser.parse_args().directory)


def write(directory: Path) -> None:
    """Write everything below a directory, dated SOURCE_DATE_EPOCH."""
    files = {f"man/{name}": text for name, text in man.pages(int(os.environ.get("SOURCE_DATE_EPOCH", "0"))).items()}
    files |= {f"completions/{_NAMES[shell]}": text for shell, text in completions.scripts().items()}
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()

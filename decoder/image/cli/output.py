"""The output of verbs. docs/images.md describes the members of the JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from decoder.commandline import show
from decoder.errors import ImageError, UsageError, quoted
from decoder.image.cli.options import destination

if TYPE_CHECKING:
    from argparse import Namespace

    from decoder.image.progress import Progress
    from decoder.image.verbs.changes import Outcome

SCHEMA_VERSION = 1


def show_json(members: dict[str, Any]) -> None:
    """Print an object with the version of its schema."""
    show(json.dumps({"schemaVersion": SCHEMA_VERSION, **members}) + "\n")


def check_digestfile(parsed: Namespace) -> None:
    """Check that --digestfile can be written, before the work begins; its content stays as it is.

    Raises:
        UsageError: it cannot be written.
    """
    path = parsed.digestfile
    if not path or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)):
        return  # pipes and devices are opened once only: a reader takes the end of the first writer for the end
    is_new = not os.path.lexists(path)
    try:
        with open(path, "ab"):
            pass
        if is_new:
            os.unlink(path)
    except OSError as error:
        raise UsageError(f"--digestfile {quoted(path)}: {error.strerror}") from error


def show_outcome(parsed: Namespace, outcome: Outcome, progress: Progress) -> None:
    """Print the new image, and write --digestfile."""
    digest, place = outcome.descriptor["digest"], destination(parsed)
    if parsed.digestfile:
        _write_digest(parsed.digestfile, digest)
    if is_standard_output(place):
        print(f"{place} {digest}", file=sys.stderr, flush=True)  # standard output has the image
    elif parsed.json:
        changes = sorted(outcome.changes, key=lambda change: (change["platform"], change["layer"]))
        show_json({"image": place, "digest": digest, "layers": changes, "remarks": progress.remarks})
    else:
        show(f"{place} {digest}\n")


def is_standard_output(place: str) -> bool:
    """Check whether an image is written to standard output."""
    return place.partition(":")[2].partition(":")[0] in ("-", "/dev/stdout")


def warn(warnings: list[str], progress: Progress) -> None:
    """Show warnings of keys and keyproviders."""
    for warning in warnings:
        progress.remark(f"warning: {warning}")


def terminal_width() -> int:
    """Return the width of the terminal, or 0 if standard output is not one."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else 0


def _write_digest(path: str, digest: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(digest)
    except OSError as error:
        raise ImageError(
            f"the image was written, and its digest is {digest}, but --digestfile {quoted(path)}: {error.strerror}"
        ) from error

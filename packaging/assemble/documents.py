"""Write the documents of the packages: man pages, completions, configuration, changelogs, overrides."""

from __future__ import annotations

import gzip
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from assemble.places import MAINTAINER, PACKAGING, ROOT
from reference import __main__ as reference


def write(share: Path) -> None:
    """Write what does not depend on the architecture.

    Args:
        share: a directory to make.
    """
    share.mkdir()
    for name in ("systemd", "scripts", "lintian", "selinux"):
        shutil.copytree(PACKAGING / name, share / name)
    reference.write(share)
    shutil.copytree(ROOT / "config", share / "config")
    shutil.copy(PACKAGING / "ocicrypt_keyprovider.conf", share)
    shutil.copy(ROOT / "README.md", share)
    for page in (share / "man").iterdir():
        section = share / f"man{page.suffix.removeprefix('.')}"
        section.mkdir(exist_ok=True)
        (section / f"{page.name}.gz").write_bytes(_compress(page.read_text()))
    (share / "changelog.gz").write_bytes(_compress((ROOT / "CHANGELOG.md").read_text()))


def debian_changelog(package: str, version: str) -> bytes:
    """Write the changelog in Debian's form; what changed is in the project's own."""
    date = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    entry = f"{package} ({version}-1) unstable; urgency=medium\n\n  * Version {version}; see changelog.gz.\n\n"
    return _compress(f"{entry} -- {MAINTAINER}  {date:%a, %d %b %Y %H:%M:%S} +0000\n")


def _compress(text: str) -> bytes:
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)

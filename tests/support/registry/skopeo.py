"""skopeo of Debian trixie, which knows keyproviders."""

from __future__ import annotations

import os
import subprocess

from tests.support.program.processes import ROOT

_SECONDS = 300


_SKOPEO = ROOT / ".cache/skopeo-trixie/usr"  # with its own loader and C library


def run_skopeo(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    libraries = next(_SKOPEO.glob("lib/*-linux-gnu"))
    loader = next(libraries.glob("ld-linux-*.so.*"))
    return subprocess.run(
        [loader, "--library-path", libraries, _SKOPEO / "bin/skopeo", *arguments],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env={**os.environ, **(environment or {})},
        check=False,
    )

"""The action for GitHub's workflows: the words that it passes on, and the digest that it reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import layouts
from tests.support.image.images import Layout
from tests.support.program.processes import PROGRAM, ROOT

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair

ACTION = ROOT / ".github/actions/encrypt-image/encrypt"
# A new environment gets the program that is installed here, so that the test needs no network.
PYTHON = f"""\
#!/bin/sh
[ "$2" = venv ] || exec {sys.executable} "$@"
mkdir -p "$3/bin"
ln -s {PROGRAM} "$3/bin/ctd-decoder"
ln -s /bin/true "$3/bin/pip"
"""


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    layout = Layout(tmp_path / "app")
    layouts.publish(layout, layouts.add_image(layout, "amd64", [layouts.tar("base"), layouts.tar("top")]))
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    return {
        "SOURCE": f"oci:{layout.directory}",
        "DESTINATION": f"oci:{tmp_path}/encrypted:1",
        "OPTIONS": "",
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }


def test_it_encrypts_and_reports_the_digest(inputs: dict[str, str], keys: dict[str, KeyPair], tmp_path: Path) -> None:
    recipients = f"jwe:{keys['rsa2048'].public}\n\njwe:{keys['p256'].public}\n"
    environment = {**inputs, "RECIPIENTS": recipients, "OPTIONS": "--layer\n-1"}
    subprocess.run([ACTION], check=True, env=environment, timeout=120)
    encrypted = Layout(tmp_path / "encrypted")
    (root,) = layouts.roots(encrypted)
    assert (tmp_path / "output").read_text() == f"digest={root['digest']}\n"
    lower, upper = encrypted.layers
    assert "encrypted" not in lower["mediaType"]
    assert "encrypted" in upper["mediaType"]


def test_a_failure_fails_the_job(inputs: dict[str, str], tmp_path: Path) -> None:
    environment = {**inputs, "RECIPIENTS": "jwe:missing.pub"}
    assert subprocess.run([ACTION], check=False, env=environment, timeout=120).returncode != 0
    assert not (tmp_path / "output").exists()
    assert not (tmp_path / "encrypted").exists()

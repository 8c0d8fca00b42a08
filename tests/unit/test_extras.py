"""The message when a library is missing: its name, and the command that fits the installation."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from decoder import extras
from decoder.provider import PROVIDERS
from tests.support.program.processes import without_modules


@pytest.mark.parametrize(
    ("file", "extra", "command"),
    [
        ("/usr/lib/ctd-decoder/lib/decoder/extras.py", "aws", "package ctd-decoder-providers"),
        (
            "/usr/lib/ctd-decoder/lib/decoder/extras.py",
            "pgp",
            "install the package ctd-decoder",
        ),
        (
            "/root/.local/share/uv/tools/x/extras.py",
            "aws",
            "uv tool install --force 'ctd-decoder[aws]",
        ),
        ("/root/.local/pipx/venvs/ctd-decoder/lib/decoder/extras.py", "aws", "pipx install --force 'ctd-decoder[aws]"),
        ("/srv/venv/lib/decoder/extras.py", "gcp", f"{sys.executable} -m pip install 'ctd-decoder[gcp] @ "),
    ],
)
def test_the_command_fits_the_installation(file: str, extra: str, command: str) -> None:
    assert command in extras.remedy(extra, file)


def test_the_command_names_what_was_installed_and_no_package_index(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            return '{"url": "file:///srv/ctd_decoder.whl"}' if name == "direct_url.json" else None

    monkeypatch.setattr(metadata, "distribution", lambda _name: Distribution())
    assert extras.remedy("aws").endswith("'ctd-decoder[aws] @ file:///srv/ctd_decoder.whl'")
    for text in (None, "[", "[]", '{"url": 7}'):
        monkeypatch.setattr(Distribution, "read_text", lambda *_, text=text: text)
        assert extras.remedy("aws").endswith("'ctd-decoder[aws] @ file:///PATH/OF/THE/WHEEL'")


def test_the_real_reason_is_named() -> None:
    """A library that is there, and lacks something itself, is not called absent."""
    inner = ModuleNotFoundError("No module named '_multiprocessing'", name="_multiprocessing")
    assert extras.missing("aws", inner).startswith("the Python module _multiprocessing is not installed: ")
    broken = ImportError("libstdc++.so.6: cannot open shared object file", name="grpc._cython.cygrpc")
    expected = (
        "the Python module grpc._cython.cygrpc cannot be loaded (libstdc++.so.6: cannot open shared object file): "
    )
    assert extras.missing("grpc", broken).startswith(expected)


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_options_of_every_provider_are_shown_without_any_extra(name: str, tmp_path: Path) -> None:
    """Manual pages are made of them, too, where no extra is installed."""
    absent = (
        "urllib3",
        "requests",
        "grpc",
        "botocore",
        "google",
        "azure",
        "hvac",
        "pkcs11",
        "yaml",
        "rich",
        "zstandard",
    )
    program = without_modules(tmp_path, *absent)
    command = [program, "keyprovider", "run", "--provider", name, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"options of {name}:" in shown.stdout

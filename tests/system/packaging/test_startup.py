"""What a small layer costs with the package and with pip: the files that its start reads, and the instructions of all.

containerd starts the program once per layer, so an image of many small layers takes as long as these starts.
"""

from __future__ import annotations

import platform
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.packaging import wheels
from tests.support.program.processes import payload_bytes, run_decoder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packaging.packages import Built

_LAYER = encrypted(bytes(246))
_PAYLOAD = payload_bytes(_LAYER.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})

# Everything else that is written in Python comes from the launcher (packaging/assemble/frozen.py).
_FILES = {
    *("encodings/__init__.pyc", "encodings/aliases.pyc", "encodings/utf_8.pyc"),  # read before Python can say where
    "site-packages/decoder/__init__.pyc",  # the file by which an agent notices an upgrade
    *("lib-dynload/_json", "lib-dynload/mmap", "site-packages/_cffi_backend"),
    "site-packages/cryptography/hazmat/bindings/_rust",
}
# With pip, of the standard library; newer Pythons bring some of them along.
_STANDARD = {
    *("__future__", "_bisect", "_json", "_random", "_sha512", "bisect", "collections", "collections/abc", "enum"),
    *("functools", "importlib", "keyword", "math", "mmap", "operator", "random", "reprlib", "select", "fcntl"),
    *("sitecustomize", "types", "warnings"),
}

# OpenSSL chooses its code by what the processor can do. Without the second word of its capabilities (AVX2, BMI2, ADX,
# AVX-512) it takes the same on every x86-64, and the count differs between machines by less than the tolerance.
_ENVIRONMENT = {"OPENSSL_ia32cap": ":0", "CTD_DECODER_AGENT": "off"}
_MILLIONS = {"package": 93.7, "pip": 101.9}
_TOLERANCE = 0.03


@pytest.fixture(scope="module")
def package(built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What callgrind says of one layer of 246 bytes with the package: every system call, and the instructions."""
    directory = tmp_path_factory.mktemp("package")
    subprocess.run(["dpkg-deb", "--extract", built.find("ctd-decoder_*.deb"), directory], check=True)
    return _log(directory, directory / "usr/lib/ctd-decoder/bin/ctd-decoder")


@pytest.fixture(scope="module")
def pip(built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with the wheel that has the client, installed by pip."""
    directory = tmp_path_factory.mktemp("pip")
    wheels.build(directory)
    wheel = wheels.find(directory, f"*{platform.machine()}*")
    program = wheels.install(wheel, directory / "venv")
    for file in directory.glob("venv/lib/*/site-packages/distutils-precedence.pth"):
        file.unlink()  # of setuptools, which is in environments that `python -m venv` makes, until Python 3.12
    return _log(directory, program)


def _log(directory: Path, program: Path) -> str:
    options = ["--tool=callgrind", f"--callgrind-out-file={directory}/out", "--trace-syscalls=yes"]
    arguments = [*options, "--trace-children=yes", f"--log-file={directory}/%n.log", str(program)]
    done = run_decoder(_PAYLOAD, _LAYER.ciphertext, *arguments, program="valgrind", environment=_ENVIRONMENT)
    assert done == (0, _LAYER.plaintext, "")
    return "".join(log.read_text() for log in directory.glob("*.log"))


def _opened(log: str, below: str) -> set[str]:
    paths = re.findall(rf"sys_openat \( \d+, 0x\w+\(\S*/{below}/([^)]+\.(?:pyc|so))\)", log)
    return {re.sub(r"\.(cpython-[^/]*|abi3)\.so$", "", path) for path in paths}


def test_the_launcher_brings_the_modules_of_a_layer(package: str) -> None:
    assert _opened(package, r"lib/python3\.11") == _FILES


def test_the_modules_of_a_layer_with_pip(pip: str) -> None:
    libraries = {path.partition("/")[0] for path in _opened(pip, "site-packages")}
    assert libraries == {"decoder", "cryptography", "_cffi_backend"}
    paths = _opened(pip, r"lib/python3\.\d+(?:/lib-dynload)?")
    modules = {re.sub(r"(/__init__)?\.cpython-\d+\.pyc$", "", path.replace("__pycache__/", "")) for path in paths}
    assert {name for name in modules if not name.startswith(("site-packages/", "encodings"))} <= _STANDARD


@pytest.mark.parametrize("installed", _MILLIONS)
def test_the_instructions_of_a_small_layer(installed: str, request: pytest.FixtureRequest) -> None:
    """Fewer than before is a success: lower the figure here and in bench/RESULTS.md."""
    counts = re.findall(r"Collected : (\d+)", request.getfixturevalue(installed))
    assert sum(map(int, counts)) / 1e6 == pytest.approx(_MILLIONS[installed], rel=_TOLERANCE)

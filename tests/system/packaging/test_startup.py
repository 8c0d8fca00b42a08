"""What a small layer costs with the package: the files that its start reads, and the instructions of all of it.

containerd starts the program once per layer, so an image of many small layers takes as long as these starts.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.layers import encrypted, pem, rsa_key
from tests.support.processes import payload_bytes, run_decoder

if TYPE_CHECKING:
    from tests.support.packages import Built

_LAYER = encrypted(bytes(246))
_PAYLOAD = payload_bytes(_LAYER.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})

# Everything else that is written in Python comes from the launcher (packaging/assemble/frozen.py).
_FILES = {
    *("encodings/__init__.pyc", "encodings/aliases.pyc", "encodings/utf_8.pyc"),  # read before Python can say where
    "site-packages/decoder/__init__.pyc",  # the file by which an agent notices an upgrade
    *("lib-dynload/_typing", "lib-dynload/_json", "lib-dynload/mmap", "site-packages/_cffi_backend"),
    "site-packages/cryptography/hazmat/bindings/_rust",
}

# OpenSSL chooses its code by what the processor can do. Without the second word of its capabilities (AVX2, BMI2, ADX,
# AVX-512) it takes the same on every x86-64, and the count differs between machines by less than the tolerance.
_ENVIRONMENT = {"OPENSSL_ia32cap": ":0", "CTD_DECODER_AGENT": "off"}
_MILLIONS = 108.3
_TOLERANCE = 0.03


@pytest.fixture(scope="module")
def log(built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What callgrind says of one layer of 246 bytes: every system call, and at the end the instructions."""
    directory = tmp_path_factory.mktemp("startup")
    subprocess.run(["dpkg-deb", "--extract", built.find("ctd-decoder_*.deb"), directory], check=True)
    program = directory / "usr/lib/ctd-decoder/bin/ctd-decoder"
    file = directory / "log"
    options = ["--tool=callgrind", f"--callgrind-out-file={directory}/out", "--trace-syscalls=yes"]
    arguments = [*options, f"--log-file={file}", str(program)]
    done = run_decoder(_PAYLOAD, _LAYER.ciphertext, *arguments, program="valgrind", environment=_ENVIRONMENT)
    assert done == (0, _LAYER.plaintext, "")
    return file.read_text()


def test_the_launcher_brings_the_modules_of_a_layer(log: str) -> None:
    opened = re.findall(r"sys_openat \( \d+, 0x\w+\(\S*/lib/python3\.11/([^)]+\.(?:pyc|so))\)", log)
    assert {re.sub(r"\.(cpython-[^/]*|abi3)\.so$", "", path) for path in opened} == _FILES


def test_the_instructions_of_a_small_layer(log: str) -> None:
    """Fewer than before is a success: lower the figure here and in bench/RESULTS.md."""
    (count,) = re.findall(r"Collected : (\d+)", log)
    assert int(count) / 1e6 == pytest.approx(_MILLIONS, rel=_TOLERANCE)

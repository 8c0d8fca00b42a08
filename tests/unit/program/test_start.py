"""What the decoder says, imports and takes while it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from decoder import __version__, limits
from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.program.onelayer import PLAINTEXT, fails, run_layer
from tests.support.program.processes import MEASURE, PROGRAM, ROOT, Result, payload_bytes, unmeasured

if TYPE_CHECKING:
    from pathlib import Path


def test_no_secret_in_any_message(tmp_path: Path) -> None:
    secrets = [b"hunter2-password"]
    parameters = {"privkeys": [pem(rsa_key(3072))], "privkeys-passwords": secrets}
    result = run_layer(encrypted(PLAINTEXT), parameters=parameters)
    fails(result, 4)
    assert "hunter2" not in result.errors
    assert pem(rsa_key(3072)).decode().splitlines()[1] not in result.errors


def test_a_defect_of_ours_is_one_line_without_a_traceback() -> None:
    result = with_a_defect({})
    fails(
        result, 70, "internal error: KeyError at decoder.__main__:", "(raised at <string>:1)", f"version {__version__};"
    )
    assert "secret" not in result.errors
    assert result.errors.endswith("please report it\n")  # and no address while there is none


def test_the_address_for_reports() -> None:
    result = with_a_defect({}, "import decoder.project; decoder.project.URL = 'https://example.org/issues'; ")
    fails(result, 70, "please report it at https://example.org/issues")


def with_a_defect(environment: dict[str, str], before: str = "") -> Result:
    program = before + "import decoder.__main__ as m; m.parse_arguments = lambda argv: {}['a secret']; m.main()"
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=120, check=False, env=environment
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


def test_the_traceback_of_any_failure_has_places_and_no_values() -> None:
    """Of an internal error, and of a failure that is foreseen, with its causes."""
    debug = {"CTD_DECODER_DEBUG": "1"}
    result = with_a_defect(debug)
    assert result.status == 70
    assert "  decoder.__main__:" in result.errors
    assert "  <string>:1 in <lambda>\n" in result.errors
    assert "secret" not in result.errors
    secrets = [b"hunter2-password"]
    parameters = {"privkeys": [pem(rsa_key(3072))], "privkeys-passwords": secrets}
    result = run_layer(encrypted(PLAINTEXT), parameters=parameters, environment=debug)
    assert result.status == 4
    assert "NoKeyError, most recent call last:\n  decoder.__main__:" in result.errors
    assert " in _open_first\n" in result.errors
    assert "hunter2" not in result.errors
    assert "ctd-decoder: error: no key opens this layer" in result.errors
    assert "most recent call last" not in run_layer(encrypted(PLAINTEXT), parameters=parameters).errors


def test_the_hot_path_imports_only_what_it_needs() -> None:
    """A JWE layer must not pay for argument parsers, other schemes or jwcrypto."""
    layer = encrypted(PLAINTEXT)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]})
    program = (
        "import os, sys, decoder.__main__ as m\n"
        "end = os._exit\n"
        "def report(status):\n"
        "    os.write(2, ' '.join(sys.modules).encode()); end(status)\n"
        "os._exit = report\n"
        "m.main()\n"
    )
    reading, writing = os.pipe()
    os.write(writing, payload)
    os.close(writing)
    command = ["/bin/bash", "-c", f'exec "$0" -IS -c "$1" 3<&{reading}', sys.executable]
    paths = [path for path in sys.path if path.endswith("site-packages")] + [str(ROOT)]
    done = subprocess.run(
        [*command, f"import sys; sys.path += {paths!r}\n{program}"],
        input=layer.ciphertext,
        capture_output=True,
        timeout=120,
        pass_fds=[reading],
        check=False,
    )
    os.close(reading)
    assert (done.returncode, done.stdout) == (0, PLAINTEXT)
    loaded = set(done.stderr.decode().split())
    assert "decoder.keywrap.jwe" in loaded
    unwanted = {"argparse", "logging", "dataclasses", "inspect", "importlib.metadata", "threading", "queue", "tempfile"}
    unwanted |= {"json", "re", "contextlib"}  # the latter two come with typing: decoder/leantyping.py
    unwanted |= {"jwcrypto", "hashlib", "hmac", "base64", "socket", "subprocess", "ssl", "asyncio", "ctypes", "site"}
    unwanted |= {"cryptography.hazmat.primitives.serialization", "cryptography.x509", "decoder.keywrap.pkcs7"}
    unwanted |= {"decoder.keywrap.pgp", "decoder.keywrap.pkcs11", "yaml", "pysequoia", "asn1crypto"}
    unwanted |= {"cryptography.hazmat.primitives.asymmetric.ec"}
    assert not loaded & unwanted


def test_memory_does_not_grow_with_the_layer() -> None:
    peaks = []
    for size in (limits.LARGE_AFTER_BYTES + 10 * limits.MIB, 200 * limits.MIB):
        layer = encrypted(bytes(size))
        payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]})
        reading, writing = os.pipe()
        os.write(writing, payload)
        os.close(writing)
        command = ["/bin/bash", "-c", f'exec "$0" -ISc "$1" "$2" 3<&{reading} >/dev/null']
        done = subprocess.run(
            [*command, sys.executable, MEASURE, PROGRAM],
            input=layer.ciphertext,
            stderr=subprocess.PIPE,
            pass_fds=[reading],
            timeout=60,
            check=False,
            env=unmeasured(),
        )
        os.close(reading)
        assert done.returncode == 0
        peaks.append(int(done.stderr) * limits.KIB)
    assert max(peaks) < 40 * limits.MIB
    assert abs(peaks[1] - peaks[0]) < 2 * limits.MIB

"""How much memory a payload can make the program take: 64 MiB, the program itself included."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from decoder import limits
from tests.support.keywrap.layers import encrypted
from tests.support.program.processes import ROOT, any_bytes, unmeasured

MIB = 1024 * 1024
_PROGRAM = (
    "import decoder.__main__ as program\n"
    "status = program.decode([])\n"
    "print(status, open('/proc/self/status').read(), flush=True)\n"
)
VALUES = limits.JSON_VALUES - 100


def payload(annotations: dict[str, str], parameters: dict[str, list[str]] | None = None) -> bytes:
    descriptor = encrypted(b"layer").descriptor
    whole = {**descriptor, "annotations": {**descriptor["annotations"], **annotations}}
    value = {"DecryptConfig": {"Parameters": parameters or {}}, "Descriptor": whole}
    return any_bytes(json.dumps(value, ensure_ascii=False).encode())


def base64_of(size: int) -> str:
    return b64encode(os.urandom(size)).decode()


PAYLOADS: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: any_bytes(b'{"x":[' + b"[]," * 2_700_000 + b"[]]}"),
    "empty lists, as many as are read": lambda: any_bytes(b'{"x":[' + b"[]," * (VALUES // 2) + b"[]]}"),
    "members": lambda: any_bytes(b"{" + b",".join(b'"%0110x":1.5' % n for n in range(VALUES)) + b"}"),
    "integers": lambda: any_bytes(b'{"x":[' + b"1," * 4_000_000 + b"1]}"),
    "annotations": lambda: payload({f"{n:0100}": "v" for n in range(VALUES // 2)}),
    "wrapped keys": lambda: payload({"org.opencontainers.image.enc.keys.jwe": ",".join([base64_of(15_000)] * 200)}),
    "a wide annotation": lambda: payload({"title": "x" * 3_900_000 + "\N{GRINNING FACE}"}),
    "escapes": lambda: any_bytes(b'{"x":"' + b"x" * 8_000_000 + b'\\ud83d\\ude00"}'),
    "a key": lambda: payload({}, {"privkeys": [base64_of(6_000_000)]}),
    "keys": lambda: payload({}, {f"n{n}": [base64_of(1400)] for n in range(4000)}),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_takes_at_most_64_mib(name: str, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(PAYLOADS[name]())
    assert file.stat().st_size <= limits.PAYLOAD_BYTES
    command = ["/bin/bash", "-c", 'exec "$0" -c "$1" 3<"$2" </dev/null', sys.executable, _PROGRAM, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=unmeasured())
    status, _, rest = done.stdout.partition(" ")
    assert status in ("3", "4"), done.stderr
    assert len(done.stderr) <= 16 * 1024
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", rest, re.MULTILINE)
    assert peak
    assert int(peak[1]) * 1024 <= 64 * MIB

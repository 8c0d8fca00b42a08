"""containerd runs an encrypted image whose layers go through the agent, with a payload and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.containerd import Containerd
from tests.support.processes import PROGRAM

if TYPE_CHECKING:
    from tests.support.agent import Place
    from tests.support.images import Layout
    from tests.support.keypairs import Encrypt, KeyPair

# What is found on PATH: it starts the agent in containerd's namespaces before the first layer, and is the client.
_STARTING = """\
#!/bin/sh
echo "$*" >>"$CTD_DECODER_LOG"
if mkdir {directory}/started 2>/dev/null; then
    setsid {program} agent --listen {directory}/socket </dev/null >/dev/null 2>{directory}/log 3<&- &
fi
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -S {directory}/socket ] && break
    sleep 0.5
done
exec {directory}/client "$@"
"""


@pytest.fixture
def starting(place: Place) -> Iterator[str]:
    yield _STARTING.format(directory=place.directory, program=PROGRAM)
    assert (place.directory / "log").read_text() == ""


def test_with_payloads(
    place: Place,
    starting: str,
    plain: dict[str, Layout],
    encrypt: Encrypt,
    keys: dict[str, KeyPair],
    tmp_path: Path,
) -> None:
    encrypted = encrypt(plain[images.GZIP], ["rsa2048"])
    with Containerd(tmp_path, ctd_decoder=starting) as containerd:
        result = containerd.run(encrypted, "--key", str(keys["rsa2048"].private))
        assert len(containerd.decoder_runs) == len(encrypted.layers)
    assert result.returncode == 0, result.stderr
    assert images.GREETING in result.stdout
    assert place.fallbacks == 0


def test_without_payloads(
    place: Place,
    starting: str,
    plain: dict[str, Layout],
    encrypt: Encrypt,
    keys: dict[str, KeyPair],
    tmp_path: Path,
) -> None:
    """The content store is found by the client's parent, not by the worker's."""
    encrypted = encrypt(plain[images.GZIP], ["rsa2048"])
    with Containerd(tmp_path, keys["rsa2048"].private, ctd_decoder=starting) as containerd:
        imported = containerd.import_image(encrypted)
        assert imported.returncode == 0, imported.stderr
        result = containerd.run_stock()
        assert len(containerd.decoder_runs) == len(encrypted.layers)
    assert result.returncode == 0, result.stderr
    assert images.GREETING in result.stdout
    assert place.fallbacks == 0


def test_without_the_key(
    place: Place, starting: str, plain: dict[str, Layout], encrypt: Encrypt, tmp_path: Path
) -> None:
    with Containerd(tmp_path, ctd_decoder=starting) as containerd:
        result = containerd.import_image(encrypt(plain[images.GZIP], ["rsa2048"]))
    assert result.returncode == 1
    assert "ctd-decoder: error: no key opens this layer" in result.stderr
    assert place.fallbacks == 0

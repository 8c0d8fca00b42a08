"""Our own providers, run inside the decoder."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from decoder.errors import ProviderFailedError
from decoder.keywrap.keyprovider import KeyProvider
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, unwrap

if TYPE_CHECKING:
    from tests.support.program.processes import Result


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "node.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return path


def decrypt_with(entry: dict[str, Any], wrapped: bytes, directory: Path, **how: Any) -> Result:
    return decrypt(
        configuration(directory, {NAME: entry}), encrypted(PLAINTEXT, {f"provider.{NAME}": [wrapped]}), **how
    )


def test_local(key: Path, tmp_path: Path) -> None:
    entry = {"native": "local", "key": str(key), "timeout": 5}
    wrapped = KeyProvider(NAME, configuration(tmp_path, {NAME: entry})).wrap(private_options(), [])
    assert private_options() not in wrapped
    for parameters in ({}, {NAME: [b"Enabled"]}):
        assert decrypt_with(entry, wrapped, tmp_path, parameters=parameters) == (0, PLAINTEXT, "")

    key.write_bytes(bytes(32))
    result = decrypt_with(entry, wrapped, tmp_path)
    assert (result.status, result.plaintext) == (6, b"")
    assert f"the keyprovider '{NAME}' (our own 'local'): " in result.errors


def test_options_that_it_does_not_have(key: Path, tmp_path: Path) -> None:
    result = decrypt_with({"native": "local", "key": str(key), "kye": "x"}, b"x", tmp_path)
    assert (result.status, result.plaintext) == (6, b"")
    assert "its configuration: the provider local has no option 'kye'" in result.errors


def test_a_parameter_that_is_no_text(key: Path, tmp_path: Path) -> None:
    result = decrypt_with({"native": "local", "key": str(key)}, b"x", tmp_path, parameters={NAME: [b"\xff"]})
    assert (result.status, "its parameter is not text" in result.errors) == (6, True)


class Misbehaving:
    """A key service's library at its worst; no real one can be made to do this on purpose."""

    def wrap(self, options: bytes, parameters: Sequence[str]) -> bytes:
        time.sleep(10)
        return options

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> bytes:
        raise RuntimeError(f"a secret: {annotation!r}")


def test_a_library_that_hangs_or_fails_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(OPTIONS=(), create=lambda *_: Misbehaving())
    monkeypatch.setitem(sys.modules, "decoder.provider.services.local", module)
    config_file = configuration(tmp_path, {NAME: {"native": "local", "timeout": 0.2}})
    started = time.monotonic()
    with pytest.raises(ProviderFailedError, match=r"no answer within 0\.2 seconds"):
        KeyProvider(NAME, config_file).wrap(private_options(), [])
    assert time.monotonic() - started < 15
    with pytest.raises(ProviderFailedError, match=r"it failed unexpectedly \(RuntimeError\)$"):
        unwrap(config_file)

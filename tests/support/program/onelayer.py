"""Run the installed program on one layer."""

from __future__ import annotations

from typing import Any

from tests.support.keywrap.layers import Layer, pem, rsa_key
from tests.support.program.processes import Result, payload_bytes, run_decoder

PLAINTEXT = bytes(range(256)) * 100


def run_layer(layer: Layer, *arguments: str, parameters: dict[str, list[bytes]] | None = None, **how: Any) -> Result:
    keys = {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]} if parameters is None else parameters
    return run_decoder(payload_bytes(layer.descriptor, keys), layer.ciphertext, *arguments, **how)


def fails(result: Result, status: int, *texts: str) -> None:
    assert result.status == status, result.errors
    assert result.errors.startswith("ctd-decoder: error: ")
    assert result.errors.endswith("\n")
    assert "Traceback" not in result.errors
    assert len(result.errors) < 20_000
    for text in texts:
        assert text in result.errors

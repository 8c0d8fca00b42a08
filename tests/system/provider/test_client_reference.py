"""The reference program as the client of the keyproviders of the tests: they answer it as they answer ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from decoder.formats import wire
from decoder.keywrap.keyprovider import KeyProvider
from decoder.provider.client import command
from decoder.provider.client.config import CommandProvider
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import encrypted, pem, private_options, rsa_key
from tests.support.program.processes import REFERENCE
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, serving, turning_command

SECONDS = 120.0


def wrapped_by_us(config_file: str, directory: Path) -> None:
    """Wrap with our client and open with the reference."""
    annotation = KeyProvider(NAME, config_file).wrap(private_options(), [b"the key"])
    layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [annotation]})
    assert decrypt(config_file, layer, program=REFERENCE) == (0, PLAINTEXT, "")


def check_request(request: dict[str, Any]) -> None:
    assert request["op"] == "keywrap"
    assert request["keywrapparams"]["ec"]["Parameters"] == {NAME: [wire.encode_base64(b"the key")]}


def test_a_command(tmp_path: Path) -> None:
    provider = turning_command(tmp_path)
    config_file = configuration(tmp_path, {NAME: provider.entry})
    assert decrypt(config_file, program=REFERENCE) == (0, PLAINTEXT, "")
    provider.record.unlink()
    wrapped_by_us(config_file, tmp_path)
    check_request(provider.requests()[0])


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix://{}/socket"])
def test_a_server(address: str, tmp_path: Path) -> None:
    with serving(address.format(tmp_path)) as server:
        config_file = configuration(tmp_path, {NAME: {"grpc": server.address}})
        assert decrypt(config_file, program=REFERENCE) == (0, PLAINTEXT, "")
        wrapped_by_us(config_file, tmp_path)
    check_request(server.requests()[1])


def test_the_reference_sends_every_key_to_the_provider(tmp_path: Path) -> None:
    """The control of the test that ours does not."""
    provider = turning_command(tmp_path)
    canary = pem(rsa_key())
    parameters = {"privkeys": [canary], "privkeys-passwords": [b"secret"], NAME: [b"own"]}
    config_file = configuration(tmp_path, {NAME: provider.entry})
    assert decrypt(config_file, parameters=parameters, program=REFERENCE).status == 0
    assert wire.encode_base64(canary) in provider.record.read_text()


def test_only_root_can_run_a_command_as_another_user() -> None:
    nobody = 65534
    os.seteuid(nobody)
    try:
        with pytest.raises(ProviderError, match="only root can run it as the user 'root'"):
            command.ask(CommandProvider("/bin/true", user="root"), b"", SECONDS)
        with pytest.raises(ProviderError, match="it ended without a reply"):
            command.ask(CommandProvider("/bin/true", user="nobody"), b"", SECONDS)
    finally:
        os.seteuid(0)

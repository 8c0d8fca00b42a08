"""The scheme of keyproviders: its configuration, its parameters, and key-encryption keys that are kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoder.errors import ProviderFailedError, WrappedKeyError
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import asking
from decoder.keywrap.keyprovider import KeyProvider, longest_seconds
from decoder.keywrap.recipient import RecipientRules
from decoder.provider import envelope
from decoder.provider.client.config import Configured, parse_config
from decoder.provider.client.held import Held
from decoder.provider.errors import NoKekServiceError, ProviderError
from decoder.provider.keks import Keks
from tests.support.keywrap.layers import private_options
from tests.support.provider.client_parts import NAME, configuration, grpc_entry, serving
from tests.support.provider.serving import write_key

if TYPE_CHECKING:
    import grpc


def configured(tmp_path: Path, entry: dict[str, Any]) -> Configured:
    (provider,) = parse_config(Path(configuration(tmp_path, {NAME: entry})).read_bytes()).providers
    return provider


def test_a_provider_has_one_recipient() -> None:
    provider = KeyProvider(NAME)
    assert provider.read_recipient("key:of=é", RecipientRules(bytes)) == ["key:of=é".encode()]
    assert provider.keep(b"wrapped", [0]) == b"wrapped"
    assert len(provider.recipients(b"wrapped", {})) == 1


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    for text, reason in (("{", "line 1, column 2: "), ("[]", "JSON array instead of an object")):
        (tmp_path / "conf").write_text(text)
        with pytest.raises(ProviderFailedError, match=f"^the keyprovider configuration '{tmp_path}/conf': .*{reason}"):
            KeyProvider(NAME, str(tmp_path / "conf")).wrap(private_options(), [])
        assert longest_seconds(str(tmp_path / "conf")) == 0.0


def test_a_wrapped_key_that_only_looks_like_a_packet(tmp_path: Path) -> None:
    """What is not JSON is no packet without integrity protection, so the provider's own failure is told."""
    config = DecryptConfig(Keyring(), keyprovider_config=configuration(tmp_path, {NAME: {"native": "local"}}))
    with pytest.raises(ProviderFailedError, match="its configuration: the provider local needs one of"):
        KeyProvider(NAME).unwrap(b"A256CTR", config, lambda *_: None)


def test_parameters_that_are_not_text(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    for option, value in (("key", 7), ("key", [str(key)]), ("allow-key", [7])):
        entry = {"native": "local", "key": str(key), option: value}
        with pytest.raises(ProviderError, match=f"the option {option} of the provider local must be a string"):
            asking.ask(configured(tmp_path, entry), "keywrap", private_options(), [])


def test_a_server_that_does_not_wrap_key_encryption_keys(tmp_path: Path) -> None:
    """One without our methods wraps each layer's options; one that answers them with another format is an error."""
    answer = {"keywrapresults": {"annotation": base64.b64encode(b"{}").decode()}}

    def respond(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return json.dumps(answer).encode()

    for has_keks, reason in (
        (True, "its reply holds no wrapped key-encryption key"),
        (False, "has no methods for key"),
    ):
        with serving(answer=respond, has_keks=has_keks) as server:
            config_file = configuration(tmp_path, grpc_entry(server.address))
            with pytest.raises(ProviderFailedError, match=reason):
                KeyProvider(NAME, config_file, packet_format="new").wrap(private_options(), [])
            if not has_keks:
                assert KeyProvider(NAME, config_file).wrap(private_options(), []) == b"{}"


def test_whether_a_key_encryption_key_is_kept(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    native = configured(tmp_path, {"native": "local", "key": str(key)})
    kek = envelope.new_kek()
    letter = envelope.parse(asking.ask(native, "keywrap", kek, [], is_kek=True))
    assert letter
    wrapped = envelope.seal(kek, letter.provider, letter.wrapped_kek, private_options())
    command = configured(tmp_path, {"cmd": {"path": "/bin/false"}})
    server = configured(tmp_path, {"grpc": "127.0.0.1:1"})
    held = Held(60, Keks(60))
    for provider, expected in ((native, True), (command, False), (server, False)):  # `local` asks nobody
        assert asking.has_opened(provider, wrapped, [], held) == expected
        assert not asking.has_opened(provider, wrapped, [], Held(60))
        assert not asking.has_opened(provider, b"{}", [], held)
    assert held.keks
    held.keks.opened(asking._kek_name(server, letter, []), lambda: kek, 1)
    assert asking.has_opened(server, wrapped, [], held)
    with pytest.raises(NoKekServiceError, match="only our own providers"):
        asking.ask(command, "keywrap", kek, [], is_kek=True)
    with pytest.raises(WrappedKeyError, match="it is longer than"):
        KeyProvider(NAME).unwrap(bytes(10_000_000), DecryptConfig(Keyring()), lambda *_: None)

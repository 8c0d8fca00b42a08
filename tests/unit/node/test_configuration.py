"""`ctd-decoder config`: what it prints is what config/ has, and TOML that says what the decoder needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from decoder.errors import UsageError
from decoder.node.containerd import cli
from decoder.node.containerd import configuration as containerdconfig
from decoder.provider import PROVIDERS, options_of
from decoder.provider.client import config
from tests.support.program.processes import ROOT

_FILES = {2: "containerd-v2.toml", 3: "containerd-v3.toml", 4: "containerd-v4.toml"}


@pytest.mark.parametrize("version", containerdconfig.VERSIONS)
def test_the_files_are_what_is_printed(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["containerd", "--config-version", str(version)]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / _FILES[version]).read_text()


def test_the_drop_in_is_version_3() -> None:
    assert (ROOT / "config/conf.d/ctd-decoder.toml").read_text() == containerdconfig.snippet(3)


def test_the_keys_path_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    path = '/keys "of\\ this" nöde'
    assert cli.main(["containerd", f"--keys-path={path}"]) == 0
    processors = tomllib.loads(capsys.readouterr().out)["stream_processors"]
    assert len(processors) == 2
    for processor in processors.values():
        assert processor["args"] == ["--decryption-keys-path", path]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["docker"], "unknown word 'docker'"),
        (["containerd", "--config-version", "1"], "unknown word 1; expected 2, 3, 4"),
        (["containerd", "--keys-path"], "expected one argument"),
        (["containerd", "--keys-path", "a\nb"], "a configuration file cannot hold"),
        (["containerd", "--colour"], "unknown option '--colour'"),
    ],
)
def test_wrong_command_lines(arguments: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        cli.main(arguments)


def test_the_sample_of_keyproviders_has_each_of_them() -> None:
    parsed = config.parse_config((ROOT / "config/ocicrypt_keyprovider.sample.conf").read_bytes())
    assert not parsed.warnings
    transports = [provider.transport for provider in parsed.providers]
    natives = [transport for transport in transports if isinstance(transport, config.NativeProvider)]
    assert {native.provider for native in natives} == set(PROVIDERS)
    for native in natives:
        known = {spelling for option in options_of(native.provider) for spelling in (option.name, *option.also)}
        assert set(native.options) <= known, native.provider
    assert {type(transport) for transport in transports} == {
        config.NativeProvider,
        config.CommandProvider,
        config.GrpcProvider,
    }


@pytest.mark.parametrize(
    "page",
    [ROOT / "packaging/man/ocicrypt_keyprovider.conf.5", ROOT / "docs/keyproviders.md"],
    ids=lambda page: page.name,
)
def test_examples_in_documents_can_be_read(page: Path) -> None:
    examples = re.findall(r"(?:```json|\.Bd -literal -offset indent)\n(.*?)(?:```|\.Ed)", page.read_text(), re.DOTALL)
    parsed = [config.parse_config(example.encode()) for example in examples if "key-providers" in example]
    assert parsed
    for file in parsed:
        assert not file.warnings
        for provider in file.providers:
            assert not isinstance(provider.transport, config.MalformedProvider), provider.name

"""`ctd-decoder config`: what it prints is what config/ has, and TOML that says what the decoder needs."""

from __future__ import annotations

import tomllib

import pytest

from decoder import configuration
from decoder.errors import UsageError
from tests.processes import ROOT

_FILES = {2: "containerd-v2.toml", 3: "containerd-v3.toml", 4: "containerd-v4.toml"}


@pytest.mark.parametrize("version", configuration.VERSIONS)
def test_the_files_are_what_is_printed(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert configuration.main(["containerd", "--config-version", str(version)]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / _FILES[version]).read_text()


def test_the_drop_in_is_version_3() -> None:
    assert (ROOT / "config/conf.d/ctd-decoder.toml").read_text() == configuration.snippet(3)


def test_the_keys_path_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    path = '/keys "of\\ this" nöde'
    assert configuration.main(["containerd", f"--keys-path={path}"]) == 0
    processors = tomllib.loads(capsys.readouterr().out)["stream_processors"]
    assert len(processors) == 2
    for processor in processors.values():
        assert processor["args"] == ["--decryption-keys-path", path]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["docker"], "no configuration for 'docker'"),
        (["containerd", "--config-version", "1"], "one of 2, 3, 4"),
        (["containerd", "--keys-path"], "needs a value"),
        (["containerd", "--keys-path", "a\nb"], "cannot stand in a configuration file"),
        (["containerd", "--colour"], "unknown argument"),
    ],
)
def test_wrong_command_lines(arguments: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        configuration.main(arguments)

"""docs/troubleshooting.md: the messages that it lists are what containerd's client prints in those states."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

from decoder import doctor
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.node.containerd import CONFIGURATION, Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM, REFERENCE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.keys.keypairs import Encrypt, KeyPair

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
OURS = f'#!/bin/sh\nexec {shlex.quote(str(PROGRAM))} "$@"\n'
PROGRAMS = {
    "payload required": f'#!/bin/sh\nexec {shlex.quote(str(PROGRAM))} "$@" --require-payload\n',
    "reference": f'#!/bin/sh\nexec {shlex.quote(REFERENCE)} "$@"\n',
}
MISPLACED = CONFIGURATION + (
    '[stream_processors."io.containerd.ocicrypt.decoder.v1.tar.gzip"]\n'
    'accepts = ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]\n'
    f'returns = "{images.GZIP}"\npath = "/nowhere/ctd-decoder"\nargs = []\n'
)
some_suites = pytest.mark.parametrize("suite", [SUITES[0], SUITES[-1]], ids=lambda suite: suite.name)


@pytest.fixture(scope="module")
def encrypted(plain: dict[str, Layout], encrypt: Encrypt) -> Layout:
    return encrypt(plain[images.GZIP], ["rsa2048"])


@pytest.fixture
def key(keys: dict[str, KeyPair], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key of the node, whose containerd does not find the decoder of the virtual environment on PATH."""
    path = [entry for entry in os.environ["PATH"].split(":") if not os.path.exists(f"{entry}/ctd-decoder")]
    monkeypatch.setenv("PATH", ":".join(path))
    return keys["rsa2048"].private


@some_suites
@pytest.mark.parametrize(
    ("messages", "state"),
    [
        (["no key opens this layer"], "no key"),
        (["no payload came"], "payload required"),
        (["resolves to executable in current directory", "cannot run executable found relative"], "relative PATH"),
        (["no such file or directory"], "misplaced"),
        (["invalid tar header"], "zstd"),
        (["executable file not found in $PATH", "resolves to executable in current directory"], "not on PATH"),
        (["read configFd: bad file descriptor", "wrong diff id calculated", "unexpected EOF"], "reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages(
    messages: list[str],
    state: str,
    suite: Suite,
    encrypted: Layout,
    key: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "node").mkdir()
    keys_here = [] if state == "no key" else [key]
    layout = as_zstd(encrypted, tmp_path / "zstd") if state == "zstd" else encrypted
    configuration = MISPLACED if state == "misplaced" else CONFIGURATION
    if suite.version >= (2, 0):
        configuration = configuration.replace("version = 2", "version = 3")
    node = Containerd(
        tmp_path / "node",
        *keys_here,
        programs=suite.programs,
        configuration=configuration,
        path_before="bin" if state == "relative PATH" else "",
        ctd_decoder=PROGRAMS.get(state, OURS),
    )
    if state == "not on PATH":
        (tmp_path / "node/bin/ctd-decoder").unlink()
    with node as containerd:
        result = containerd.import_image(layout)
    assert result.returncode != 0
    assert any(message in result.stderr for message in messages), result.stderr
    assert all(message in PAGE for message in messages)


def test_a_container_runs_after_its_key_is_gone(encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key) as containerd:
        assert containerd.import_image(encrypted).returncode == 0
        (tmp_path / "keys" / key.name).unlink()
        assert containerd.run_stock().stdout == images.expected_output()


def as_zstd(layout: Layout, directory: Path) -> Layout:
    """Copy an image, its layers called zstd, which the default configuration does not take."""
    copy = Layout(shutil.copytree(layout.directory, directory))
    layers = [{**layer, "mediaType": layer["mediaType"].replace("+gzip", "+zstd")} for layer in copy.layers]
    copy.write_manifest(copy.read_json(copy.manifest["config"]), layers)
    return copy


def test_the_page_names_each_check() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `findings[].check`")]
    assert re.findall(r"`([a-z]+)`", row.split("|")[2]) == list(doctor.CHECKS)

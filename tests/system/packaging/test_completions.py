"""The completions in the shells that they are for: what a user gets for a tab."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.program.processes import ROOT

_SECONDS = 60
_WORDS = {
    "ctd-decoder im": "image",
    "ctd-decoder image enc": "encrypt",
    "ctd-decoder --release ver": "verified",
    "ctd-decoder image check --keyp": "--keyprovider-config",
    "ctd-decoder keyprovider run --provider openb": "openbao",
    "ctd-decoder keyprovider serve --lis": "--listen",
    "ctd-decoder config containerd --keys-path direc": "directory/",
    "ctd-decoder image encrypt oci-arch": "oci-archive:",
    "ctd-decoder image encrypt docker-dae": "docker-daemon:",
    "ctd-decoder image encrypt oci:direc": "oci:directory/",
    "ctd-decoder image decrypt dir:direc": "dir:directory/",
    "ctd-decoder image rewrap oci:direc": "oci:directory/",
    "ctd-decoder image check --key mykey.p": "mykey.pem",
    "ctd-decoder image check --key provider:awsk": "provider:awskms",
    "ctd-decoder image encrypt --recipient jwe:myk": "jwe:mykey.pem",
    "ctd-decoder image rewrap --recipient myk": "mykey.pem",
    "ctd-decoder keyprovider run --provider gcpkms --adc myk": "mykey.pem",
    "ctd-decoder --decryption-keys-path direc": "directory/",
    "ctd-decoder image encrypt oci:directory oci-archive:myk": "oci-archive:mykey.pem",
    "ctd-decoder image encrypt --recipient provider:openb": "provider:openbao",
    "ctd-decoder image encrypt --recipient pkcs11:myk": "pkcs11:mykey.pem",
    "ctd-decoder keyprovider serve --provider local --keys direc": "directory/",
    "ctd-decoder keyprovider serve --tls-cert myk": "mykey.pem",
    "ctd-decoder keyprovider attestation-agent reg": "register",
    "ctd-decoder grants rev": "revoke",
    "ctd-decoder grants approve --key myk": "mykey.pem",
    "ctd-decoder grants approve --nodes direc": "directory/",
    "ctd-decoder agent sta": "status",
    "ctd-decoder doctor --containerd-config myk": "mykey.pem",
    "ctd-decoder coco init": "initdata",
    "ctd-decoder coco initdata --ca myk": "mykey.pem",
    "ctd-decoder coco initdata --format ba": "base64",
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-m", "reference", str(directory)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'packaging'}:{ROOT}"})
    return directory / "completions"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "directory").mkdir()
    (tmp_path / "mykey.pem").touch()
    return tmp_path


@contextmanager
def shell(command: list[str], directory: Path) -> Iterator[int]:
    """Start an interactive shell at a terminal of its own."""
    environment = {"PATH": "/usr/bin:/bin", "TERM": "dumb", "HOME": str(directory), "PS1": "$ ", "INPUTRC": "/dev/null"}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(directory)
        os.execvpe(command[0], command, environment)
    try:
        yield terminal
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


def ask(terminal: int, text: str, until: str) -> str:
    """Type something, and return what the terminal shows until it shows a text."""
    os.write(terminal, text.encode())
    shown = ""
    end = time.monotonic() + _SECONDS
    while until not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    assert until in shown, shown
    return shown


def completed(terminal: int, line: str) -> str:
    """Type a line and a tab, and return what is in the shell's buffer then."""
    shown = ask(terminal, f"{line}\t\x01echo '<\x05>'\n", ">\r\n")
    return str(re.findall(r"<(.*)>", shown)[-1]).strip()


@pytest.mark.parametrize(
    ("command", "setup"),
    [
        (["bash", "--norc", "-i"], "source {}/bash/ctd-decoder; bind 'set completion-query-items 0'"),
        (
            ["zsh", "-f", "-i"],
            "fpath=({}/zsh $fpath); autoload -U compinit; compinit -u -D; bindkey -e; unset zle_bracketed_paste",
        ),
    ],
    ids=["bash", "zsh"],
)
def test_tab(command: list[str], setup: str, scripts: Path, place: Path) -> None:
    with shell(command, place) as terminal:
        ask(terminal, setup.format(scripts) + "; echo rea''dy\n", "ready")
        wrong = {}
        for line, last in _WORDS.items():
            wanted = f"{line.rpartition(' ')[0]} {last}"
            found = completed(terminal, line)
            if found.rstrip("/") != wanted.rstrip("/"):  # zsh takes the slash back when the line goes on
                wrong[line] = found
        assert not wrong


def test_fish_offers_the_same(scripts: Path, place: Path) -> None:
    wrong = {}
    for line, last in _WORDS.items():
        script = f"source {scripts}/fish/ctd-decoder.fish; complete -C {line!r}"
        shown = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=place,
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(place), "XDG_CONFIG_HOME": str(place)},
        ).stdout
        found = {entry.partition("\t")[0] for entry in shown.splitlines()}
        if last not in found:
            wrong[line] = found
    assert not wrong

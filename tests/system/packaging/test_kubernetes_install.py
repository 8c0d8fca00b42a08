"""The program that installs on Kubernetes nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.support.kubernetes.manifests import MANIFESTS, run
from tests.support.kubernetes.mounted_secrets import Volume
from tests.support.provider.serving import wait_for

INSTALL = MANIFESTS / "install_on_node.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that can be installed: its program is a script."""
    return write_tree(tmp_path / "tree", "first")


def write_tree(directory: Path, text: str, program: str = "#!/bin/sh\n") -> Path:
    for name in ("bin", "lib"):
        (directory / name).mkdir(parents=True)
    (directory / "lib/module").write_text(text)
    (directory / "bin/ctd-decoder").write_text(program)
    (directory / "bin/ctd-decoder").chmod(0o755)
    (directory / "bin/client").symlink_to("ctd-decoder")
    return directory


def install(tree: Path, node: Path, *arguments: str | Path, verb: str = "install", expect: int = 0) -> str:
    node.mkdir(exist_ok=True)
    return run(sys.executable, "-Es", INSTALL, verb, "--tree", tree, "--into", node, *arguments, expect=expect)


def installed(node: Path) -> str:
    """Return what the installed program's tree holds."""
    link = node / "bin/ctd-decoder"
    assert link.readlink().name == "client"
    return link.resolve().parent.with_name("lib").joinpath("module").read_text()


def files(directory: Path) -> dict[str, str]:
    """Read the files below a directory, but for those that are removed meanwhile."""
    found = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            found[str(path.relative_to(directory))] = path.read_text()
    return found


def test_the_tree_before_stays_for_decoders_that_run(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    for number, text in enumerate(("first", "second", "third")):
        install(tree if not number else write_tree(tmp_path / text, text), node)
        assert installed(node) == text
        install(tmp_path / text if number else tree, node)  # the pod starts again
        assert len(list((node / "ctd-decoder").iterdir())) == min(number + 1, 2)
    assert {path.read_text() for path in node.glob("ctd-decoder/*/lib/module")} == {"second", "third"}


def test_a_damaged_or_unfinished_tree_is_replaced(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    install(tree, node)
    (module,) = node.glob("ctd-decoder/*/lib/module")
    module.write_text("damaged")
    (node / "ctd-decoder/.partial-1").mkdir()
    install(tree, node)
    assert installed(node) == "first"
    assert len(list((node / "ctd-decoder").iterdir())) == 1


def test_a_program_that_does_not_start_is_not_installed(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    install(tree, node)
    broken = write_tree(tmp_path / "broken", "broken", "#!/bin/sh\necho no such library >&2\nexit 127\n")
    assert install(broken, node, expect=1) == (
        "install-on-node: error: the copied program does not start: no such library\n"
    )
    assert installed(node) == "first"


def test_a_program_of_somebody_else_stays(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "bin").mkdir(parents=True)
    (node / "bin/ctd-decoder").write_text("imgcrypt's")
    for verb in ("install", "remove"):
        assert "exists and was not installed by this program" in install(tree, node, verb=verb, expect=1)
    assert files(node) == {"bin/ctd-decoder": "imgcrypt's"}


def test_files_come_change_and_go_and_others_stay(tree: Path, tmp_path: Path) -> None:
    node, place = tmp_path / "node", tmp_path / "ocicrypt"
    secret = Volume(tmp_path / "secret")
    (place / "keys").mkdir(parents=True)
    (place / "keys/mine.pem").write_text("mine")
    arguments = ("--files", secret.directory, place)
    secret.write({"keys/a.pem": b"a", "conf": b"{}"})
    install(tree, node, *arguments)
    assert {path.stat().st_mode & 0o777 for path in place.rglob("[ac]*") if path.is_file()} == {0o600}
    secret.write({"keys/b.pem": b"b", "conf": b"changed"})
    install(tree, node, *arguments)
    listed = json.dumps(["conf", "keys/b.pem"])
    expected = {"keys/mine.pem": "mine", "keys/b.pem": "b", "conf": "changed", ".ctd-decoder-files": listed}
    assert files(place) == expected
    secret.write({"keys/mine.pem": b"another"})
    assert "mine.pem exists and was not installed by this program" in install(tree, node, *arguments, expect=1)
    assert files(place) == expected
    install(tree, node, *arguments, verb="remove")
    assert files(place) == {"keys/mine.pem": "mine"}
    assert files(node) == {}


@contextmanager
def following(*pairs: Path) -> Iterator[IO[bytes]]:
    """Run `follow` on pairs of FROM and TO; it must end with status 0. Yields what it writes to standard error."""
    arguments = [
        text for source, target in zip(pairs[::2], pairs[1::2], strict=True) for text in ("--files", source, target)
    ]
    command = [sys.executable, "-Es", INSTALL, "follow", "--every", "0.05", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr
        try:
            yield process.stderr
        finally:
            process.terminate()
        assert process.wait(120) == 0


def test_files_follow_their_secrets_while_the_pod_runs(tmp_path: Path) -> None:
    """Two Secrets, one of them for a directory below the other's; files of others stay."""
    keys, configuration, place = Volume(tmp_path / "keys"), Volume(tmp_path / "files"), tmp_path / "ocicrypt"
    keys.write({"a.pem": b"a", "b.pem": b"b"})
    configuration.write({"conf": b"{}"})
    (place / "keys").mkdir(parents=True)
    (place / "keys/mine.pem").write_text("mine")
    mine = {"keys/mine.pem": "mine"}

    def has(expected: dict[str, str]) -> bool:
        return {name: text for name, text in files(place).items() if "ctd-decoder" not in name} == {**mine, **expected}

    with following(configuration.directory, place, keys.directory, place / "keys"):
        wait_for(lambda: has({"conf": "{}", "keys/a.pem": "a", "keys/b.pem": "b"}))
        keys.write({"b.pem": b"changed", "c.pem": b"c"})
        wait_for(lambda: has({"conf": "{}", "keys/b.pem": "changed", "keys/c.pem": "c"}))
        configuration.write({})
        wait_for(lambda: has({"keys/b.pem": "changed", "keys/c.pem": "c"}))
    assert {path.name for path in place.rglob(".*")} == {".ctd-decoder-files"}


def test_a_file_that_cannot_be_copied_is_reported_once_and_tried_again(tmp_path: Path) -> None:
    secret, place = Volume(tmp_path / "secret"), tmp_path / "place"
    place.mkdir()
    (place / "a.pem").write_text("of somebody else")
    secret.write({"a.pem": b"a"})
    with following(secret.directory, place) as errors:
        assert b"a.pem exists and was not installed by this program" in errors.readline()
        (place / "a.pem").unlink()
        wait_for(lambda: (place / "a.pem").exists() and (place / "a.pem").read_text() == "a")
    assert errors.closed or errors.read() == b""

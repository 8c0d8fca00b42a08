"""When the content store is searched, and which one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from decoder.node import process
from decoder.node.containerd.contentstore import BLOBS
from decoder.node.containerd.storeroot import DEFAULT_ROOT, find_root
from tests.support.keywrap.layers import Layer, ec_key, encrypted, public_pem
from tests.support.node.store_parts import NOTHING_FOUND, PLAINTEXT, Store, decode, fails, wrapped_for
from tests.support.program.processes import PROGRAM, Result, payload_bytes, run_decoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# When it is looked for.


def test_a_payload_can_be_required(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    for payload in (None, b""):
        fails(decode(store, layer, keys, "--require-payload", payload=payload), 3, "no payload came")
    good = payload_bytes(layer.descriptor, None)
    assert decode(store, layer, keys, "--require-payload", payload=good) == (0, PLAINTEXT, "")


def test_a_payload_wins(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    other = payload_bytes(wrapped_for(public_pem(ec_key())).descriptor, None)
    fails(decode(store, layer, keys, payload=other), 4, "no key opens this layer")
    (store.blobs / "..").resolve().rename(store.root / "moved")
    assert decode(store, layer, keys, payload=payload_bytes(layer.descriptor, None)) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("damage", [lambda good: good[:-1], lambda good: good[:1], lambda _: b"\0", lambda _: b"{}"])
def test_a_damaged_payload_is_an_error(damage: Callable[[bytes], bytes], store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    fails(decode(store, layer, keys, payload=damage(payload_bytes(layer.descriptor, None))), 3, "the payload")


def test_an_empty_payload_is_none(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    assert decode(store, layer, keys, payload=b"") == (0, PLAINTEXT, "")
    store.blobs.rename(store.root / "moved")
    fails(decode(store, layer, keys, payload=b""), 3, "descriptor 3 is empty", "cannot be read")


# Where: the containerd that started us.


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


def containerd(tmp_path: Path, command_line: str, before: str = "", program: Path | None = None) -> str:
    """Write a program that starts ours as its child, and is called containerd by its command line."""
    inner = script(tmp_path / "inner", f'"{program or PROGRAM}" --decryption-keys-path "{tmp_path}/keys"', "exit $?")
    return str(script(tmp_path / "outer", before, f'exec -a containerd /bin/bash "{inner}" {command_line}'))


def started_by(program: str, layer: Layer) -> Result:
    return run_decoder(None, layer.ciphertext, program=program)


@pytest.mark.parametrize("form", ["--root {}", "--root={}", "-root {}", "--log-level debug --root {} --state x"])
def test_root_of_the_command_line(form: str, store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    program = containerd(keys.parent, form.format(store.root))
    assert started_by(program, layer) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("form", ["--config {}", "--config={}", "-c {}", "-c={}"])
def test_root_of_the_configuration(form: str, store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    configuration = keys.parent / "config.toml"
    configuration.write_text(f'version = 2\nroot = "{store.root}"\n[grpc]\naddress = "x"\n')
    program = containerd(keys.parent, form.format(configuration))
    assert started_by(program, layer) == (0, PLAINTEXT, "")


def test_root_of_the_files_that_are_open(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    blob = store.blobs / hashlib.sha256(layer.ciphertext).hexdigest()
    program = containerd(keys.parent, "--root /nonexistent", before=f'exec 9<"{blob}"')
    assert started_by(program, layer) == (0, PLAINTEXT, "")


def test_scripts_may_stand_between(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    wrapper = script(keys.parent / "wrapper", f'"{PROGRAM}" "$@"', "exit $?")
    program = containerd(keys.parent, f"--root {store.root}", program=wrapper)
    assert started_by(program, layer) == (0, PLAINTEXT, "")


def test_an_option_comes_before_all_that(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    Store(keys.parent / "other").add_image(layer)
    wrapper = script(keys.parent / "wrapper", f'exec "{PROGRAM}" --content-store "{store.root}" "$@"')
    program = containerd(keys.parent, f"--root {keys.parent}/other", program=wrapper)
    fails(started_by(program, layer), 3, str(store.blobs), NOTHING_FOUND)


@pytest.mark.parametrize("text", ["version = 2", "root = 1", 'root = ""', "root = ", "\xff"])
def test_a_configuration_without_a_root(text: str, keys: Path) -> None:
    (keys.parent / "config.toml").write_text(text, encoding="latin-1")
    program = containerd(keys.parent, f"--config {keys.parent}/config.toml")
    fails(started_by(program, encrypted(PLAINTEXT)), 3, f"{DEFAULT_ROOT}/{BLOBS}")


def test_a_containerd_without_arguments() -> None:
    """As the units of distributions start it; here it is a shell that reads from standard input."""
    with subprocess.Popen(
        ["containerd"], executable="/bin/bash", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write("sleep 60 & echo $!; wait\n")
        parent.stdin.flush()
        child = int(parent.stdout.readline())
        try:
            assert process.command_line(parent.pid) == ["containerd"]
            assert find_root(child) == DEFAULT_ROOT
        finally:
            os.kill(child, signal.SIGKILL)
            parent.stdin.close()


def test_the_default_root() -> None:
    assert find_root() == DEFAULT_ROOT
    assert find_root(1 << 22) == DEFAULT_ROOT  # there is no process with this number (proc(5), pid_max)

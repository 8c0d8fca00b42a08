"""`ctd-decoder doctor`, with the containerds of three suites of Debian, and without any."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from decoder.node.containerd.configuration import snippet
from tests.support.keywrap import layers
from tests.support.node.roots import SUITES
from tests.support.program.processes import PROGRAM, ROOT

_RUN = "import sys; from decoder.doctor import main; sys.exit(main(sys.argv[1:]))"
_SECONDS = 60


class Place(NamedTuple):
    """A node: containerd's configuration, the keys directory, and the keyprovider file that it names."""

    configuration: Path
    keys: Path
    keyproviders: Path

    def configure(self, version: int = 2, change: tuple[str, str] = ("", "")) -> None:
        """Write containerd's configuration, with one text replaced by another."""
        text = snippet(version, str(self.keys))
        text = text.replace('path = "ctd-decoder"', f'path = "{PROGRAM}"')
        text = text.replace("/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf", str(self.keyproviders))
        assert change[0] in text
        self.configuration.write_text(text.replace(*change))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    tmp_path.chmod(0o755)
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "node.pem").write_bytes(layers.pem(layers.rsa_key()))
    made = Place(tmp_path / "config.toml", keys, tmp_path / "keyproviders.conf")
    made.configure()
    return made


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_node_that_is_right(suite: object, place: Place) -> None:
    (chosen,) = (known for known in SUITES if known is suite)
    place.configure(2 if chosen.version < (2, 0) else 3)
    path = os.environ["PATH"] if chosen.programs is None else f"{chosen.programs}:{os.environ['PATH']}"
    status, findings = _examine(place, path)
    assert status == 0, findings
    assert _has(findings, "ok", f"version {'.'.join(map(str, chosen.version))}")
    assert _has(findings, "ok", "both IDs that clients know take all encrypted layers")
    assert _has(findings, "ok", "'node.pem' (RSA 2048, sha256:")
    assert _has(findings, "ok", f"containerd finds {PROGRAM}")
    level = "ok" if chosen.cri_sends_a_payload else "note"
    assert [finding["level"] for finding in findings if finding["subject"] == "Kubernetes (CRI)"] == [level]


def test_broken_toml_is_named_with_its_line(place: Place) -> None:
    place.configuration.write_text("version = 2\nroot = [\n")
    status, findings = _examine(place)
    assert status == 1
    assert _has(findings, "error", "is not TOML")
    assert _has(findings, "error", "line 3") or _has(findings, "error", "at end of document")


def test_without_containerd_the_file_is_looked_at(place: Place, tmp_path: Path) -> None:
    status, findings = _examine(place, str(tmp_path / "empty"), hide_containerd=True)
    assert status == 1
    errors = [finding["text"] for finding in findings if finding["level"] == "error"]
    assert errors == ["there is no such program on PATH"]
    assert _has(findings, "ok", "both IDs that clients know")


def test_a_containerd_that_hangs_is_left_alone(place: Place, tmp_path: Path) -> None:
    _program(tmp_path / "bin/containerd", "case $1 in --version) echo x x 1.6.20 x;; *) exec sleep 60;; esac")
    status, findings = _examine(place, f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert status == 1
    assert _has(findings, "error", "did not end within 10 seconds")


def test_without_permission(place: Place) -> None:
    shutil.copytree(ROOT / "decoder", place.keys.parent / "code/decoder")
    place.configuration.chmod(0o600)
    status, findings = _examine(place, user=65534)
    assert status == 1
    assert _has(findings, "error", "Permission denied")
    assert any(finding["remedy"] == "run the doctor as root" for finding in findings)


def test_keys_that_do_not_open(place: Place) -> None:
    key = place.keys / "node.pem"
    encrypt: list[str | Path] = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-in",
        key,
        "-passout",
        "pass:secret",
        "-out",
        place.keys / "locked.pem",
    ]
    subprocess.run(encrypt, check=True)
    (place.keys / "damaged.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (place.keys / "README").write_text("keys of this node")
    status, findings = _examine(place)
    assert status == 1
    assert _has(findings, "error", "locked.pem' does not open: it is encrypted, and no password was given")
    assert _has(findings, "error", "damaged.pem' does not open")
    assert _has(findings, "warning", "'README' was skipped")
    assert "secret" not in json.dumps(findings)


def test_a_keys_directory_that_others_can_read(place: Place) -> None:
    place.keys.chmod(0o755)
    status, findings = _examine(place)
    assert status == 1
    assert _has(findings, "error", "its mode is 0755: others can list it")


def test_keyproviders(place: Place, tmp_path: Path) -> None:
    with socket.socket() as listener, socket.socket() as closed, socket.socket(socket.AF_UNIX) as ttrpc:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ttrpc.bind(str(tmp_path / "ttrpc.sock"))
        ttrpc.listen()
        closed.bind(("127.0.0.1", 0))
        providers = {
            "there": {"grpc": f"127.0.0.1:{listener.getsockname()[1]}"},
            "closed": {"grpc": f"127.0.0.1:{closed.getsockname()[1]}"},
            "socket": {"grpc": f"unix://{tmp_path}/none.sock"},
            "ttrpc": {"ttrpc": f"unix://{tmp_path}/ttrpc.sock"},
            "no ttrpc": {"ttrpc": f"{tmp_path}/none.sock"},
            "command": {"cmd": {"path": "/bin/cat", "args": []}},
            "absent": {"cmd": {"path": "/nowhere/cat", "args": []}},
            "malformed": {"timeout": 3},
            "native": {"native": "nothing"},
        }
        place.keyproviders.write_text(json.dumps({"key-providers": providers}))
        status, findings = _examine(place)
    levels = {
        finding["subject"].removeprefix("keyprovider "): finding["level"]
        for finding in findings
        if finding["subject"].startswith("keyprovider ")
    }
    assert status == 1
    reached = {"there", "ttrpc", "command"}
    assert {name for name, level in levels.items() if level == "ok"} == reached
    assert {name for name, level in levels.items() if level == "error"} == set(providers) - reached


def test_one_line_per_finding(place: Place) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _RUN, "--containerd-config", place.configuration],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    _, findings = _examine(place)
    assert len(result.stdout.splitlines()) == len(findings)
    assert all(line.split()[0] in ("ok", "note", "warning", "error") for line in result.stdout.splitlines())


def _examine(
    place: Place, path: str = os.environ["PATH"], user: int = 0, hide_containerd: bool = False
) -> tuple[int, list[dict[str, str]]]:
    """Run the doctor.

    Args:
        place: the node.
        path: where it looks for programs.
        user: whom it runs as; then the code lies in the place.
        hide_containerd: make the service path of the system find none either.
    """
    command: list[str | Path] = [sys.executable, "-c", _RUN, "--json", "--containerd-config", place.configuration]
    if hide_containerd:  # in namespaces of its own, where no other test's containerd runs either
        hide = 'mount --bind /dev/null "$(command -v containerd)"; '
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*alone, "sh", "-c", f'{hide} PATH="$0" exec "$@"', path, *command]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        cwd=place.keys.parent / "code" if user else ROOT,
        user=user or None,
        group=user or None,
        extra_groups=[] if user else None,
        env={**os.environ, "PATH": os.environ["PATH"] if hide_containerd else path},
    )
    assert result.returncode in (0, 1), result.stderr
    report = json.loads(result.stdout)
    assert report["healthy"] == (result.returncode == 0)
    return result.returncode, report["findings"]


def _has(findings: list[dict[str, str]], level: str, text: str) -> bool:
    return any(finding["level"] == level and text in finding["text"] for finding in findings)


def _program(path: Path, script: str) -> None:
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)

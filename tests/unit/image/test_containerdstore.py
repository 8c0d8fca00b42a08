"""References to images of containerd, and its messages, without containerd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from decoder import limits
from decoder.errors import ImageError, UsageError
from decoder.formats import containerd as messages
from decoder.image import transport
from decoder.image.transport import Options
from tests.support.registry.registries import pull


@pytest.mark.parametrize("place", ["", "a b", "a\n", "a" * 5000])
def test_malformed_names(place: str) -> None:
    with pytest.raises(UsageError, match="containerd:IMAGE"), transport.open_source(f"containerd:{place}", Options()):
        pass


def test_no_containerd(tmp_path: Path) -> None:
    absent, file = tmp_path / "absent.sock", tmp_path / "file"
    file.touch()
    for path, reason in ((absent, "No such file or directory"), (file, "it is not a socket")):
        with pytest.raises(ImageError, match=f"there is no containerd at '{path}': {reason}"):
            pull("containerd:image", Options(address=str(path)))
    with pytest.raises(ImageError, match="is not a valid containerd namespace"):
        pull("containerd:image", Options(address=str(absent), namespace="ä"))


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "silent.sock"
    monkeypatch.setattr(limits, "CONTAINERD_SECONDS", 0.5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(ImageError, match=f"containerd at '{path}' cannot be reached"):
            pull("containerd:image", Options(address=str(path)))
        listener.listen()
        with pytest.raises(ImageError, match=f"containerd at '{path}' (did not answer within 0.5|cannot be reached)"):
            pull("containerd:image", Options(address=str(path)))


def test_messages() -> None:
    written = messages.build({1: "text", 2: 300, 3: b"\0", 5: {"a": "b", "c": ""}, 7: 0, 8: ""})
    assert written.hex() == "0a0474657874" + "10ac02" + "1a0100" + "2a060a01611201622a030a0163"
    parsed = messages.parse(written + bytes.fromhex("4901020304050607085501020304"))
    assert (messages.text(parsed, 1), messages.integer(parsed, 2), messages.content(parsed, 3)) == ("text", 300, b"\0")
    assert messages.mapping(parsed, 5) == {"a": "b", "c": ""}
    assert (messages.integer(parsed, 7), messages.text(parsed, 8)) == (0, "")
    assert parsed[9] == [bytes(range(1, 9))]
    assert parsed[10] == [bytes(range(1, 5))]


@pytest.mark.parametrize("message", ["0a", "0a05aa", "08", "08ff", "08" + "ff" * 11, "0b", "0900", "0d0000"])
def test_malformed_messages(message: str) -> None:
    with pytest.raises(ValueError, match=r"cut short|too long|wire type"):
        messages.parse(bytes.fromhex(message))

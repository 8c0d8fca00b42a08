"""Messages for the journal: their form, their size, how many there are, and what they are about."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoder import limits
from decoder.node import journal
from decoder.node.containerd.contentstore import BLOBS
from decoder.node.containerd.imagename import Image, find_image
from decoder.node.journal import failures, ratelimit, waiting
from decoder.provider.client import protocol
from tests.support.keywrap.layers import encrypted
from tests.support.program.processes import ROOT, payload_bytes, run_decoder


class Listener:
    """A datagram socket in the place of journald's or syslog's."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(5)

    def receive(self) -> bytes:
        return self._socket.recv(1 << 20)

    def receive_fields(self) -> dict[str, str]:
        """Read a message as journald does: names and values, each value with its length before it."""
        data, fields = self.receive(), {}
        while data:
            name, _, rest = data.partition(b"\n")
            (length,) = struct.unpack_from("<Q", rest)
            fields[name.decode()] = rest[8 : 8 + length].decode()
            assert rest[8 + length : 9 + length] == b"\n"
            data = rest[9 + length :]
        return fields

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path / "socket")
    yield made
    made.close()


def test_fields_for_journald(listener: Listener) -> None:
    journal.log("one\n  two", journal.ERROR, {"CTD_LAYER": "x\nMESSAGE=forged"}, listener.path, "/nonexistent")
    assert listener.receive_fields() == {
        "MESSAGE": "one; two",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "ctd-decoder",
        "CTD_LAYER": "x\nMESSAGE=forged",
    }


def test_journald_comes_before_syslog(listener: Listener, tmp_path: Path) -> None:
    other = Listener(tmp_path / "other")
    journal.warn("text", listener.path, other.path)
    assert listener.receive_fields()["PRIORITY"] == "4"
    other.close()


def test_a_line_for_syslog(listener: Listener) -> None:
    journal.warn("'README' was skipped", "/nonexistent", listener.path)
    assert listener.receive() == f"<12>ctd-decoder[{os.getpid()}]: 'README' was skipped".encode()


def test_nobody_listens(listener: Listener) -> None:
    journal.warn("text", "/nonexistent", "/nonexistent")
    for _ in range(1000):  # a full queue is not waited for
        journal.warn("x", "", listener.path)
    listener.close()
    journal.warn("the listener is gone", "", listener.path)


@pytest.mark.parametrize("stream", ["of standard error", "of another descriptor", None])
def test_a_line_for_the_journal_and_standard_error_is_in_the_journal_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    """systemd connects the standard error of a service to the journal, and names the socket in its environment."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream:
        status = os.stat(2 if stream == "of standard error" else listener.path)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    said: list[str] = []
    journal.log_and_say("text", journal.INFORMATION, said.append, listener.path)
    assert listener.receive_fields()["MESSAGE"] == "text"
    assert said == ([] if stream == "of standard error" else ["text"])


def test_a_line_that_the_journal_does_not_accept_is_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.stat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    said: list[str] = []
    journal.log_and_say("text", journal.INFORMATION, said.append, "/nonexistent", "/nonexistent")
    assert said == ["text"]


def test_long_messages_are_cut(listener: Listener) -> None:
    journal.log("ä" * 100_000, journal.WARNING, {"CTD_REASON": "x" * 100_000}, listener.path)
    fields = listener.receive_fields()
    assert limits.JOURNAL_BYTES - 6 < len(fields["MESSAGE"].encode()) <= limits.JOURNAL_BYTES
    assert fields["MESSAGE"].endswith("…")
    assert len(fields["CTD_REASON"].encode()) <= limits.JOURNAL_BYTES


def test_the_number_of_messages_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = str(tmp_path / "count"), 1000.0
    monkeypatch.setattr(ratelimit, "time", lambda: now)
    left = [ratelimit.remaining(file) for _ in range(limits.JOURNAL_MESSAGES + 5)]
    assert left == [*range(limits.JOURNAL_MESSAGES - 1, -1, -1), *[-1] * 5]
    now += limits.JOURNAL_WINDOW_SECONDS
    assert ratelimit.remaining(file) == limits.JOURNAL_MESSAGES - 1
    now = 10.0  # the clock was set back
    assert ratelimit.remaining(file) == limits.JOURNAL_MESSAGES - 1
    assert Path(file).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nonexistent")])
def test_what_is_no_file_limits_nothing(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "count")
    for file in (str(tmp_path / "count"), "", str(tmp_path / "absent/count")):
        assert ratelimit.remaining(file) == limits.JOURNAL_MESSAGES


def test_dropped_messages_are_mentioned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    left = iter([1, 0, -1, -1])
    monkeypatch.setattr(ratelimit, "remaining", lambda _file: next(left))
    monkeypatch.setattr(journal, "log", lambda text, *_: logged.append(text))
    for number in range(4):
        failures.report_warnings([f"warning {number}"])
    assert logged[:2] == ["warning 0", "warning 1"]
    assert len(logged) == 3
    assert "further ones are dropped" in logged[2]


def test_a_failure_without_a_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logged: list[tuple[str, int, dict[str, str]]] = []
    monkeypatch.setattr(journal, "log", lambda *message: logged.append(message))
    monkeypatch.setattr(ratelimit, "remaining", lambda _file: 1)
    failures.report_failure(3, "no payload came", "", str(tmp_path))
    failures.report_failure(70, "internal error", "sha256:\nforged", str(tmp_path))
    assert logged[0][0] == "cannot decrypt a layer (status 3): no payload came"
    assert logged[0][2] == {"CTD_STATUS": "3", "CTD_CLASS": "payload", "CTD_REASON": "no payload came"}
    assert logged[1][0] == r"cannot decrypt layer 'sha256:\nforged' (status 70): internal error"


def test_no_image_is_found_in_no_store(tmp_path: Path) -> None:
    assert find_image(str(tmp_path), "sha256:" + "0" * 64) == Image()
    assert find_image(str(tmp_path), "../../etc/passwd") == Image()


def test_an_image_is_named_by_its_index_if_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, manifest = (f"sha256:{each * 64}" for each in "ab")
    folder = tmp_path / BLOBS
    folder.mkdir(parents=True)
    (folder / ("b" * 64)).write_text(json.dumps({"layers": [{"digest": layer}]}))
    assert find_image(str(tmp_path), layer) == Image(manifest)
    index = {"annotations": {"about": manifest}, "manifests": [{"digest": layer}]}
    (folder / ("c" * 64)).write_text(json.dumps(index))
    assert find_image(str(tmp_path), layer) == Image(f"sha256:{'c' * 64}")
    index["manifests"] = [{"digest": manifest, "annotations": {"org.opencontainers.image.ref.name": "a:1"}}]
    (folder / ("c" * 64)).write_text(json.dumps(index))
    assert find_image(str(tmp_path), layer) == Image(f"sha256:{'c' * 64}", "'a:1'")
    monkeypatch.setattr(limits, "IMAGE_NAME_SECONDS", -1.0)
    assert find_image(str(tmp_path), layer) == Image()


def test_no_alarm_is_set_outside_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the main thread can handle signals; the block runs in any."""
    monkeypatch.setenv("STREAM_PROCESSOR_MEDIATYPE", "x")
    done: list[float] = []

    def work() -> None:
        with waiting.noted("a key service"):
            done.append(signal.getitimer(signal.ITIMER_REAL)[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [0.0]
    with waiting.noted("a key service"):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_standard_error_is_bounded() -> None:
    """Names of annotations are untrusted: thousands of long ones are quoted, and do not flood containerd's memory."""
    layer = encrypted(b"plain")
    name = "org.opencontainers.image.enc.keys.provider.\nctd-decoder: error: forged " + "x" * 3000
    annotations = {**layer.descriptor["annotations"], **{f"{name}{number}": "e30=" for number in range(200)}}
    result = run_decoder(payload_bytes({**layer.descriptor, "annotations": annotations}, {}), layer.ciphertext)
    assert result.status == 4
    assert len(result.errors.encode()) <= limits.STANDARD_ERROR_BYTES
    assert result.errors.count("ctd-decoder: error:") == 1 + result.errors.count(r"\nctd-decoder: error:")
    assert "\nctd-decoder: error: forged" not in result.errors


def test_a_wait_for_a_key_service_is_noted(tmp_path: Path) -> None:
    """A keyprovider that takes longer than the limit is named in the journal, once, before the layer has ended."""
    layer = encrypted(b"plain", {"provider.slow": [b"{}"]})
    reply = protocol.build_request("keyunwrap", b"", "slow", [])  # not a reply: the layer fails in the end
    (tmp_path / "provider").write_text(f"#!/bin/sh\nsleep 3\necho '{reply.decode()}'\n")
    (tmp_path / "provider").chmod(0o755)
    entry = {"cmd": {"path": str(tmp_path / "provider"), "args": []}}
    (tmp_path / "conf").write_text(json.dumps({"key-providers": {"slow": entry}}))
    script = (
        "from decoder import limits; limits.WAITING_SECONDS = 0.5\n"
        "from decoder.node import journal; journal.log = lambda text, *_: print('JOURNAL', text, file=sys.stderr)\n"
        "from decoder.__main__ import decode; sys.exit(decode(sys.argv[1:]))"
    )
    program = tmp_path / "decoder"
    program.write_text(f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT)!r})\n{script}\n")
    program.chmod(0o755)
    payload, options = payload_bytes(layer.descriptor, {}), ("--keyprovider-config", str(tmp_path / "conf"))
    started = {"STREAM_PROCESSOR_MEDIATYPE": layer.descriptor["mediaType"]}
    result = run_decoder(payload, layer.ciphertext, *options, program=str(program), environment=started)
    assert result.status == 6
    waiting, failure = (line for line in result.errors.splitlines() if line.startswith("JOURNAL"))
    assert waiting.startswith("JOURNAL still waiting for the keyprovider 'slow' (")
    assert waiting.endswith(" after 0.5 seconds")
    assert "cannot decrypt" in failure
    assert run_decoder(payload, layer.ciphertext, *options, program=str(program)).errors.count("JOURNAL") == 0

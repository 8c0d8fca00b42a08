"""PINs of PKCS#11 tokens."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from decoder import limits
from tests.support.keys.pkcs11_tokens import PIN, TokenStore, softhsm
from tests.support.keywrap.pkcs11_layers import _is_child
from tests.support.keywrap.pkcs11_parts import reason, unwrap

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000  # PKCS#11 §3.2, CKF_USER_PIN_…


# The PIN.


@pytest.mark.parametrize("content", [PIN, PIN + "\n", PIN + "\r\n"])
@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_reads_the_pin_from_a_file(
    store: TokenStore, small_sha1: bytes, tmp_path: Path, content: str, form: str
) -> None:
    (tmp_path / "pin").write_text(content)
    query = f"module-path={softhsm()}&pin-source={form.format(tmp_path / 'pin')}"
    assert unwrap(small_sha1, store.yaml("token=layers;object=small", query)) == (b"options", [])


def test_says_what_is_wrong_with_the_pin_source(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "long").write_bytes(b"1" * (limits.PKCS11_PIN_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for source, message in (
        (f"{tmp_path}/absent", "its pin-source cannot be read: No such file or directory"),
        (f"{tmp_path}/fifo", "its pin-source cannot be read: it is not a regular file"),
        (f"{tmp_path}/empty", "its PIN is empty or longer than 256 bytes"),
        (f"{tmp_path}/long", "its PIN is empty or longer than 256 bytes"),
        (f"{tmp_path}/binary", "the PIN in its pin-source is not UTF-8"),
        ("relative", "its pin-source is neither an absolute path nor a file: URI of one"),
        ("%7C/bin/id", "its pin-source is neither an absolute path nor a file: URI of one"),
    ):
        key_file = store.yaml("token=layers;object=small", f"module-path={softhsm()}&pin-source={source}")
        assert reason(small_sha1, key_file) == message
    missing = store.yaml("token=layers;object=small", f"module-path={softhsm()}")
    assert reason(small_sha1, missing) == ("it has no PIN (pin-value or pin-source), and the private key needs one")


def test_a_wrong_pin_is_tried_once(store: TokenStore, small_sha1: bytes) -> None:
    """SoftHSM sets COUNT_LOW at a wrong PIN and clears it at the right one: so it tells whether one was tried."""
    query = f"module-path={softhsm()}&pin-value="
    wrong = store.yaml("token=layers;object=small", query + "99999999")
    same_token = store.yaml(f"serial={store.serial('layers')};id=%02", query + "99999999")
    right = store.yaml("token=layers;object=small")
    assert not store.flags("layers") & COUNT_LOW

    opened, reasons = unwrap(small_sha1, wrong)
    assert (opened, reasons) == (None, ["pkcs11-yamls[0]: the PIN is wrong for the token 'layers'"])
    assert store.flags("layers") & COUNT_LOW

    assert unwrap(small_sha1, right) == (b"options", [])
    assert not store.flags("layers") & COUNT_LOW

    again = "the token 'layers' has refused this PIN before; it was not tried again"
    opened, reasons = unwrap(small_sha1, wrong, same_token)
    assert (opened, reasons) == (None, [f"pkcs11-yamls[0]: {again}", f"pkcs11-yamls[1]: {again}"])
    assert not store.flags("layers") & COUNT_LOW


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (LOCKED, "the token 'state' is locked: a wrong PIN was tried too often"),
        (FINAL_TRY, "one more wrong PIN would lock the token 'state', so none was tried"),
    ],
)
def test_leaves_a_token_alone_that_cannot_take_the_pin(
    small_sha1: bytes, tmp_path: Path, flags: int, message: str
) -> None:
    store = TokenStore(tmp_path)
    store.add_token("state")
    flags |= store.flags("state")
    store.set_flags("state", flags)
    assert reason(small_sha1, store.yaml("token=state;object=small")).startswith(message)
    assert store.flags("state") == flags


def test_a_token_without_a_pin_is_named(small_sha1: bytes, tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    initialize = (
        "import ctypes, sys; module = ctypes.CDLL(sys.argv[1]); label = b'blank'.ljust(32)\n"
        "assert module.C_Initialize(None) == 0\n"
        "assert module.C_InitToken(ctypes.c_ulong(0), b'so-pin', ctypes.c_ulong(6), label) == 0\n"
    )
    store.run(sys.executable, "-c", initialize, softhsm())
    assert reason(small_sha1, store.yaml("token=blank")) == "the token 'blank' has no user PIN set"


def test_the_pin_is_in_no_argument_and_no_variable(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    """The child waits for its configuration, a FIFO, while it is looked at; it then opens the wrapped key."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    key_file = store.yaml("token=layers;object=small").replace(bytes(store.configuration), bytes(fifo))
    results: list[tuple[bytes | None, list[str]]] = []
    thread = threading.Thread(target=lambda: results.append(unwrap(small_sha1, key_file)))
    thread.start()
    with fifo.open("wb") as configuration:  # opens once the module reads
        (child,) = (int(entry.name) for entry in Path("/proc").iterdir() if _is_child(entry))
        shown = Path(f"/proc/{child}/cmdline").read_bytes() + Path(f"/proc/{child}/environ").read_bytes()
        streams = {os.readlink(f"/proc/{child}/fd/{number}") for number in (0, 1, 2)}
        configuration.write(store.configuration.read_bytes())
    thread.join()
    assert results == [(b"options", [])]
    assert PIN.encode() not in shown
    assert streams == {"/dev/null"}

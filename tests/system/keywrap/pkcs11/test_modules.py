"""Which PKCS#11 module is loaded, and what it may do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from decoder import limits
from tests.support.keys.pkcs11_tokens import PIN, TokenStore, softhsm
from tests.support.keywrap.pkcs11_layers import _is_child
from tests.support.keywrap.pkcs11_parts import reason, unwrap
from tests.support.program.processes import ROOT
from tests.support.provider.serving import wait_for

# Which module, and what it may do.


def test_a_module_is_loaded_only_from_an_allowed_place(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    """A file that is no library tells by the message whether it was loaded."""
    allowed, outside, below = tmp_path / "allowed", tmp_path / "outside", tmp_path / "allowed/below"
    for directory in (allowed, outside, below):
        directory.mkdir()
        (directory / "module.so").write_text("not a library")
    (allowed / "link.so").symlink_to(outside / "module.so")
    (tmp_path / "way").symlink_to(allowed)
    config = f"allowed-module-paths: [{allowed}/]".encode()

    def said(path: str) -> str:
        return reason(small_sha1, store.yaml("token=layers", f"module-path={path}&pin-value={PIN}"), config=config)

    (allowed / "down").symlink_to(outside)
    for inside in ("allowed/module.so", "outside/../allowed/module.so", "way/module.so", "allowed/link.so"):
        assert "cannot be loaded" in said(f"{tmp_path}/{inside}")
    for refused in ("outside", "allowed/../outside", "allowed/below", "allowed/down"):
        assert "is not among the allowed-module-paths" in said(f"{tmp_path}/{refused}/module.so")
    assert "there is no module" in said(f"{allowed}/absent.so")
    assert said("module.so") == "its module-path is not absolute"


def test_a_module_is_found_by_name(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    directory = os.path.dirname(softhsm())
    lists = f"module-directories: [{tmp_path}/absent/, {directory}/]\nallowed-module-paths: [{softhsm()}]".encode()
    for query in (
        "module-name=softhsm2",
        "module-name=libSoftHSM2.so",
        f"module-path={directory}&module-name=softhsm2",
    ):
        key_file = store.yaml("token=layers;object=small", f"{query}&pin-value={PIN}")
        assert unwrap(small_sha1, key_file, config=lists) == (b"options", [])
    for query, message in (
        ("module-name=softhsm", "no module with the requested name was found"),
        ("", "it names no module (module-path, module-name)"),
    ):
        assert reason(small_sha1, store.yaml("token=layers", f"{query}&pin-value={PIN}"), config=lists) == message


def test_no_configuration_allows_nothing(store: TokenStore, small_sha1: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file = store.yaml("token=layers;object=small")
    message = "no PKCS#11 module is allowed: list it in allowed-module-paths of ocicrypt.conf or $OCICRYPT_CONFIG"
    for config in (b"", b"module-directories: [/usr/lib/]", b"allowed-module-paths: [relative/]", b"pkcs11: {}"):
        assert reason(small_sha1, key_file, config=config) == message
    monkeypatch.setenv("OCICRYPT_CONFIG", "/nonexistent/ocicrypt.conf")
    assert reason(small_sha1, key_file) == ("the configuration '/nonexistent/ocicrypt.conf': No such file or directory")
    for config, message in (
        (b"[", "it is not YAML"),
        (b"- a", "its content is not a mapping"),
        (b"allowed-module-paths: /a/", "its allowed-module-paths is not a list of paths"),
        (b'allowed-module-paths: ["/a\\0"]', "its allowed-module-paths is not a list of paths"),
        (b'module-directories: ["/\\ud800"]', "its module-directories is not a list of paths"),
    ):
        assert reason(small_sha1, key_file, config=config) == f"the payload's pkcs11-config: {message}"


def test_a_module_that_hangs_is_ended(
    store: TokenStore, small_sha1: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM waits for ever when its configuration is a FIFO that nobody writes."""
    os.mkfifo(tmp_path / "fifo")
    key_file = store.yaml("token=layers;object=small").replace(bytes(store.configuration), bytes(tmp_path / "fifo"))
    monkeypatch.setattr(limits, "PKCS11_SECONDS", 1.0)
    started = time.monotonic()
    assert reason(small_sha1, key_file) == "the PKCS#11 module did not answer within 1 seconds"
    assert time.monotonic() - started < 15
    assert not [entry for entry in Path("/proc").iterdir() if _is_child(entry)]


def test_a_module_that_crashes_is_survived(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    """The loader maps a library that was cut short, and dies when it reads behind the end."""
    module = tmp_path / "module.so"
    library = Path(softhsm()).read_bytes()
    module.write_bytes(library[: len(library) // 2])
    key_file = store.yaml("token=layers;object=small", f"module-path={module}&pin-value={PIN}")
    said = reason(small_sha1, key_file, config=f"allowed-module-paths: [{module}]".encode())
    assert said == f"the module '{module}' crashed (SIGBUS)"


_CLOSES_AND_WAITS = """
#include <unistd.h>
__attribute__((constructor)) static void begin(void) {
    for (int descriptor = 3; descriptor < 256; descriptor++)
        close(descriptor);
    for (;;)
        pause();
}
"""


def test_a_module_whose_process_we_end_has_not_crashed(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    (tmp_path / "closes.c").write_text(_CLOSES_AND_WAITS)
    module = tmp_path / "module.so"
    store.run("gcc", "-shared", "-fPIC", "-o", module, tmp_path / "closes.c")
    key_file = store.yaml("token=layers;object=small", f"module-path={module}&pin-value={PIN}")
    said = reason(small_sha1, key_file, config=f"allowed-module-paths: [{module}]".encode())
    assert said == f"the module '{module}' gave no answer, and its process did not end by itself"


def test_the_time_limit_of_the_child_is_no_crash(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    """It ends the child where this process is held up."""
    os.mkfifo(tmp_path / "fifo")
    key_file = store.yaml("token=layers;object=small").replace(bytes(store.configuration), bytes(tmp_path / "fifo"))

    def end_child() -> None:
        wait_for(lambda: any(_is_child(entry) and _has_opened(entry, softhsm()) for entry in Path("/proc").iterdir()))
        for entry in Path("/proc").iterdir():
            if _is_child(entry):
                os.kill(int(entry.name), signal.SIGALRM)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(end_child)
        said = reason(small_sha1, key_file)
        ended.result()
    assert said == "the PKCS#11 module did not answer within 20 seconds"


def _has_opened(process: Path, library: str) -> bool:
    return os.path.realpath(library) in (process / "maps").read_text()


def test_a_module_that_is_none_is_named(store: TokenStore, small_sha1: bytes) -> None:
    library = sysconfig.get_config_var("DESTSHARED")
    module = next(Path(str(library)).glob("*.so"), None) or Path(sys.executable).resolve()
    key_file = store.yaml("token=layers;object=small", f"module-path={module}&pin-value={PIN}")
    said = reason(small_sha1, key_file, config=f"allowed-module-paths: [{module.resolve()}]".encode())
    assert said.startswith("the module ")
    assert "cannot be loaded" in said


def test_the_module_is_never_in_this_process(store: TokenStore, small_sha1: bytes) -> None:
    assert unwrap(small_sha1, store.yaml("token=layers;object=small"))[0] == b"options"
    assert "softhsm" not in Path("/proc/self/maps").read_text()
    assert "pkcs11" not in sys.modules


@pytest.mark.parametrize("absent", ["yaml", "pkcs11"])
def test_a_missing_library_names_the_extra(store: TokenStore, small_sha1: bytes, tmp_path: Path, absent: str) -> None:
    for entry in Path(sysconfig.get_path("platlib")).iterdir():
        if entry.name != absent:
            (tmp_path / entry.name).symlink_to(entry)
    program = (
        "import sys; sys.path[1:1] = sys.argv[1:3]; key_file = sys.stdin.buffer.read()\n"
        "from tests.support.keys.pkcs11_tokens import keys_of\nfrom decoder.keywrap import pkcs11\n"
        "from decoder.errors import WrappedKeyError\n"
        "try: pkcs11.unwrap(sys.argv[3].encode(), keys_of(key_file), print)\n"
        "except WrappedKeyError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program, tmp_path, ROOT, small_sha1.decode()],
        input=store.yaml("token=layers;object=small"),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert "is not installed: " in done.stdout.decode()
    assert "pip install 'ctd-decoder[pkcs11] @ " in done.stdout.decode()

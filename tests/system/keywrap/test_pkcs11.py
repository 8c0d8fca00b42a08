"""PKCS#11 wrapped keys: SoftHSM tokens, openssl as the other side, the reference program, and bad input."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import wire
from decoder.keywrap import pkcs11
from decoder.keywrap.pkcs11 import oaep as pkcs11_oaep
from decoder.keywrap.pkcs11 import token as pkcs11_token
from decoder.layer import annotations as layer
from tests.support import containerd, images
from tests.support.layers import encrypted, private_options
from tests.support.pkcs11_parts import SMALL, reason, recipient, unwrap, wrapped_json, write_config
from tests.support.pkcs11_tokens import PIN, TokenStore, keys_of, softhsm
from tests.support.processes import REFERENCE, ROOT, payload_bytes, run_decoder

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000  # PKCS#11 §3.2, CKF_USER_PIN_…


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Two tokens; `layers` holds an RSA 2048 and a 3072 key, `other` a 2048 one."""
    store = TokenStore(tmp_path_factory.mktemp("softhsm"))
    store.add_token("layers")
    store.add_token("other")
    store.add_key("layers", "small", "01", 2048)
    store.add_key("layers", "large", "02", 3072)
    store.add_key("other", "elsewhere", "03", 2048)
    return store


@pytest.fixture(autouse=True)
def _fresh_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test is a run of its own, on a node that allows SoftHSM's module."""
    monkeypatch.delenv("OCICRYPT_OAEP_HASHALG", raising=False)
    monkeypatch.setenv("OCICRYPT_CONFIG", str(write_config(tmp_path / "node.conf", softhsm())))
    monkeypatch.setattr(pkcs11_token, "_wrong_pins", set())


@pytest.fixture(scope="module")
def small_sha1(store: TokenStore) -> bytes:
    return wrapped_json(recipient(store.encrypt("small", b"options", "sha1"), "sha1"))


# What openssl and the reference make and read.


@pytest.mark.parametrize("absent", ["sha1", "", None])
def test_unwraps_sha1(store: TokenStore, absent: str | None) -> None:
    wrapped = wrapped_json(recipient(store.encrypt("small", b"options", "sha1"), absent))
    assert unwrap(wrapped, store.yaml("token=layers;object=small")) == (b"options", [])


@pytest.mark.parametrize(("label", "text"), [("large", private_options()), ("small", b""), ("small", b"x" * 190)])
def test_unwraps_sha256_that_softhsm_refuses(store: TokenStore, label: str, text: bytes) -> None:
    wrapped = wrapped_json(recipient(store.encrypt(label, text, "sha256"), "sha256"))
    assert unwrap(wrapped, store.yaml(f"token=layers;object={label}")) == (text, [])


def test_a_wrong_hash_does_not_open(store: TokenStore) -> None:
    for written, said in (("sha1", "sha256"), ("sha256", "sha1")):
        wrapped = wrapped_json(recipient(store.encrypt("large", b"options", written), said))
        assert reason(wrapped, store.yaml("token=layers;object=large")) == "it does not open this wrapped key"


def test_wraps_to_every_form_of_a_public_key(store: TokenStore) -> None:
    certificate = store.directory / "large.crt"
    store.run(
        *("openssl", "req", "-x509", "-subj", "/CN=layers", "-key", store.directory / "large.pem", "-out", certificate)
    )
    der = store.directory / "large.der"
    store.run("openssl", "pkey", "-pubin", "-in", store.directory / "large.pub.pem", "-outform", "DER", "-out", der)
    forms = [store.public("large"), certificate.read_bytes(), der.read_bytes()]
    wrapped = json.loads(pkcs11.wrap(private_options(), forms))
    assert wrapped["version"] == 0
    assert [(entry["version"], entry["hash"]) for entry in wrapped["recipients"]] == [(0, "sha256")] * 3
    for entry in wrapped["recipients"]:
        blob = wire.decode_base64(entry["blob"])
        assert store.decrypt("large", blob, "sha256") == private_options()


def test_wraps_with_the_hash_of_the_environment(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCICRYPT_OAEP_HASHALG", "SHA1")
    wrapped = pkcs11.wrap(private_options(), [store.public("small")])
    (entry,) = json.loads(wrapped)["recipients"]
    assert entry["hash"] == "sha1"
    assert store.decrypt("small", wire.decode_base64(entry["blob"]), "sha1") == private_options()
    assert unwrap(wrapped, store.yaml("token=layers;object=small")) == (private_options(), [])


def test_wraps_through_the_token_without_its_pin(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pin = store.yaml("token=layers;object=small", f"module-path={softhsm()}")
    for chosen in ("", "sha256"):
        monkeypatch.setenv("OCICRYPT_OAEP_HASHALG", chosen)
        wrapped = pkcs11.wrap(b"options", [without_pin])
        (entry,) = json.loads(wrapped)["recipients"]
        assert entry["hash"] == (chosen or "sha1"), "SoftHSM itself cannot do SHA-256"
        assert store.decrypt("small", wire.decode_base64(entry["blob"]), entry["hash"]) == b"options"


def test_wrap_says_what_a_recipient_lacks(store: TokenStore) -> None:
    with pytest.raises(KeyFileError, match="RSA 2048 key holds 190 bytes with sha256, and the private options are 193"):
        pkcs11.wrap(private_options(), [store.public("small")])
    with pytest.raises(KeyFileError, match="has no public RSA key labelled 'gone'"):
        pkcs11.wrap(b"options", [store.yaml("token=layers;object=gone")])
    with pytest.raises(KeyFileError, match="2 public keys on the token fit"):
        pkcs11.wrap(b"options", [store.yaml("token=layers")])
    elliptic = store.directory / "ec.pub.pem"
    store.run("sh", "-c", f"openssl ecparam -name prime256v1 -genkey -noout | openssl pkey -pubout -out {elliptic}")
    with pytest.raises(KeyFileError, match="not an RSA key"):
        pkcs11.wrap(b"options", [elliptic.read_bytes()])
    for nothing in (b"", b"\x30\x00", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", b"\xff", b"a: b"):
        with pytest.raises(KeyFileError):
            pkcs11.wrap(b"options", [nothing])


@pytest.mark.parametrize("hash_member", ["as written", "absent"])
def test_reference_opens_what_ours_wrapped(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, hash_member: str
) -> None:
    monkeypatch.setenv("OCICRYPT_OAEP_HASHALG", "sha1")
    wrapped = pkcs11.wrap(private_options(), [store.public("small")])
    if hash_member == "absent":
        wrapped = wrapped.replace(b',"hash":"sha1"', b"")
    image_layer = encrypted(b"layer" * 1000, {"pkcs11": [wrapped]})
    config = f"module-directories: []\nallowed-module-paths: [{softhsm()}]\n".encode()
    parameters = {"pkcs11-yamls": [store.yaml("token=layers;object=small")], "pkcs11-config": [config]}
    payload = payload_bytes(image_layer.descriptor, parameters)
    result = run_decoder(payload, image_layer.ciphertext, program=REFERENCE)
    assert (result.status, result.errors, result.plaintext) == (0, "", image_layer.plaintext)
    # The payload's first configuration counts, for the reference as for ours.
    parameters["pkcs11-config"] = [b"allowed-module-paths: [/nothing/]", config]
    payload = payload_bytes(image_layer.descriptor, parameters)
    assert run_decoder(payload, image_layer.ciphertext, program=REFERENCE).status == 1
    keys = keys_of(*parameters["pkcs11-yamls"])._replace(parameters=parameters)
    reasons: list[str] = []
    assert pkcs11.unwrap(wrapped, keys, lambda _, why: reasons.append(why)) is None
    assert "not among the allowed-module-paths" in reasons[0]


def test_opens_what_the_reference_wrapped(store: TokenStore, tmp_path: Path) -> None:
    """imgcrypt's ctr encrypts an image in containerd; RSA 2048 with SHA-1 and RSA 3072 with SHA-256."""
    layout = images.write_image(tmp_path / "image", images.GZIP)
    (tmp_path / "containerd").mkdir()
    with containerd.Containerd(tmp_path / "containerd") as server:
        imported = server.import_image(layout, "--no-unpack")
        assert imported.returncode == 0, imported.stderr
        for label, hash_name in (("small", "sha1"), ("large", "sha256")):
            target = f"{label}:encrypted"
            recipient = f"pkcs11:{store.directory / label}.pub.pem"
            encrypted = server.execute(
                *("env", f"OCICRYPT_OAEP_HASHALG={hash_name}", str(containerd.CTR_IMGCRYPT)),
                *("--address", containerd.SOCKET, "images", "encrypt", "--recipient", recipient),
                *("--platform", "linux/amd64", containerd.IMAGE, target),
            )
            assert encrypted.returncode == 0, encrypted.stderr
            digest = next(
                line.split()[2] for line in server.ctr("images", "list").stdout.splitlines() if target in line
            )
            manifest = json.loads(server.ctr("content", "get", digest).stdout)
            while "manifests" in manifest:
                manifest = json.loads(server.ctr("content", "get", manifest["manifests"][0]["digest"]).stdout)
            assert manifest["layers"]
            for entry in manifest["layers"]:
                wrapped = wire.decode_base64(entry["annotations"][f"{layer.KEYS_PREFIX}pkcs11"])
                opened, reasons = unwrap(wrapped, store.yaml(f"token=layers;object={label}"))
                assert opened is not None, reasons
                assert len(layer.parse_private_options(opened).symmetric_key) == limits.SYMMETRIC_KEY_BYTES


# Which key, on which token.


def test_finds_the_key_among_several_recipients_and_files(store: TokenStore) -> None:
    wrapped = pkcs11.wrap(b"options", [store.public("elsewhere"), store.public("small")])
    opened, reasons = unwrap(wrapped, store.yaml("token=layers;object=large"), store.yaml("token=layers;object=small"))
    assert opened == b"options"
    assert reasons == ["pkcs11-yamls[0]: no recipient has a key of this size"]


@pytest.mark.parametrize(
    "path",
    [
        "token=layers",
        "token=layers;id=%01",
        "token=%6Cayers;object=small;id=%01;type=private",
        "serial={serial};object=small",
        "slot-id={slot};object=small",
        "object=small;token=layers;manufacturer=SoftHSM%20project;model=SoftHSM%20v2",
    ],
)
def test_selects_by_uri(store: TokenStore, small_sha1: bytes, path: str) -> None:
    path = path.format(serial=store.serial("layers"), slot=store.slot("layers"))
    assert unwrap(small_sha1, store.yaml(path)) == (b"options", [])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("token=absent;object=small", "there is no token with 'token=absent'"),
        ("token=layers;slot-id=77", "there is no token with 'token=layers, slot-id=77'"),
        ("object=small", "2 tokens fit its URI: it must name one by token, serial or slot-id"),
        ("token=layers;object=gone", "the token 'layers' has no private RSA key labelled 'gone'"),
        ("token=layers;id=%0a%0b", "the token 'layers' has no private RSA key with id 0a0b"),
        ("token=layers;object=large", "no recipient has a key of this size"),
        ("token=other;object=elsewhere", "it does not open this wrapped key"),
    ],
)
def test_says_why_a_key_does_not_open(store: TokenStore, small_sha1: bytes, path: str, message: str) -> None:
    assert reason(small_sha1, store.yaml(path)) == message


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
        (FINAL_TRY, "the token 'state' would lock at one more wrong PIN, so none was tried"),
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


def _is_child(entry: Path) -> bool:
    try:
        return (
            b"decoder.keywrap.pkcs11.child" in (entry / "cmdline").read_bytes()
            and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
        )
    except (OSError, ValueError):
        return False


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
        ("module-name=softhsm", "no module of the name that it asks for was found"),
        ("", "it names no module (module-path, module-name)"),
    ):
        assert reason(small_sha1, store.yaml("token=layers", f"{query}&pin-value={PIN}"), config=lists) == message


def test_no_configuration_allows_nothing(store: TokenStore, small_sha1: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file = store.yaml("token=layers;object=small")
    message = "no configuration (ocicrypt.conf, OCICRYPT_CONFIG) allows a PKCS#11 module"
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
    assert time.monotonic() - started < 5
    assert not [entry for entry in Path("/proc").iterdir() if _is_child(entry)]


def test_a_module_that_crashes_is_survived(store: TokenStore, small_sha1: bytes, tmp_path: Path) -> None:
    """The loader maps a library that was cut short, and dies when it reads behind the end."""
    module = tmp_path / "module.so"
    library = Path(softhsm()).read_bytes()
    module.write_bytes(library[: len(library) // 2])
    key_file = store.yaml("token=layers;object=small", f"module-path={module}&pin-value={PIN}")
    said = reason(small_sha1, key_file, config=f"allowed-module-paths: [{module}]".encode())
    assert said == f"the module '{module}' crashed (SIGBUS)"


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
        "from tests.support.pkcs11_tokens import keys_of\nfrom decoder.keywrap import pkcs11\n"
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


# Bad input.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no pkcs11 uri"),
        (b"pkcs11: {}", "no pkcs11 uri"),
        (b'pkcs11: {uri: "pkcs11:?pin-value=\\ud800"}', "no pkcs11 uri"),
        (b'{pkcs11: {uri: "pkcs11:"}, module: {env: {A: "\\ud800"}}}', "something other than NAME: text"),
        (b"pkcs11: text", "its pkcs11 is not a mapping"),
        (b"pkcs11: {uri: [a]}", "no pkcs11 uri"),
        (b"- a", "its content is not a mapping"),
        (b"[" * 10_000, "more than 256 brackets"),
        (b"[" * 256, "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        (b"- " * 8000, "not YAML"),
        (b"? [a]\n: b", "not YAML"),
        (b"a: *b", "not YAML"),
        (b"!!python/object/apply:os.system [id]", "its content is not a mapping"),
        (b"pkcs11: {uri: a}\n#" + b"x" * limits.PKCS11_YAML_BYTES, "longer than 16384 bytes"),
        (b"pkcs11: {uri: 'http:'}", "does not start with pkcs11:"),
        (b"pkcs11: {uri: 'pkcs11:token'}", "malformed or occurs twice"),
        (b"pkcs11: {uri: 'pkcs11:token=a;token=b'}", "malformed or occurs twice"),
        (b"pkcs11: {uri: 'pkcs11:token=%4'}", "broken percent-encoding"),
        (b"pkcs11: {uri: 'pkcs11:token=%zz'}", "broken percent-encoding"),
        (b"pkcs11: {uri: 'pkcs11:token=%ff'}", "not UTF-8"),
        (b"pkcs11: {uri: 'pkcs11:token=%00'}", "NUL"),
        (b"pkcs11: {uri: 'pkcs11:slot-id=-1'}", "slot-id in its URI is not a number"),
        (b"pkcs11: {uri: 'pkcs11:slot-id=" + b"9" * 5000 + b"'}", "slot-id in its URI is not a number"),
        (b"pkcs11: {uri: 'pkcs11:?pin-value=1&pin-source=/a'}", "both a pin-value and a pin-source"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: [a]}}", "its module env is not a mapping"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: {A: [b]}}}", "something other than NAME: text"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: {A=B: c}}}", "something other than NAME: text"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: {LD_PRELOAD: /a.so}}}", "dynamic loader"),
    ],
)
def test_bad_key_files(small_sha1: bytes, content: bytes, message: str) -> None:
    assert message in reason(small_sha1, content)


def test_one_usable_recipient_is_enough(store: TokenStore) -> None:
    usable = recipient(store.encrypt("small", b"options", "sha1"))
    wrapped = wrapped_json(recipient(b""), {"blob": "?"}, recipient(bytes(SMALL), "md5"), usable)
    assert unwrap(wrapped, store.yaml("token=layers;object=small")) == (b"options", [])


def test_mutations(store: TokenStore) -> None:
    """Every mutation is refused or not opened; a sample of those that are well-formed gets as far as the token."""
    original = pkcs11.wrap(b"options", [store.public("small"), store.public("large")])
    key_file = store.yaml("token=layers;object=small")
    seeded = random.Random(11)
    outcomes: dict[str, list[bytes]] = {"malformed": [], "well-formed": []}
    for _ in range(10_000):
        mutated = _mutated(original, seeded)
        try:
            opened, reasons = unwrap(mutated, b"{}")  # a key file that points nowhere
        except WrappedKeyError:
            outcomes["malformed"].append(mutated)
        else:
            outcomes["well-formed"].append(mutated)
            assert (opened, len(reasons)) == (None, 1)
    assert len(outcomes["malformed"]) > 3000
    assert len(outcomes["well-formed"]) > 1000
    for mutated in seeded.sample(outcomes["well-formed"], 30):
        opened, reasons = unwrap(mutated, key_file)
        assert opened == b"options" or len(reasons) == 1


def test_mutations_of_key_files(store: TokenStore, small_sha1: bytes) -> None:
    original = store.yaml(
        "token=layers;object=small;id=%01", f"module-name=softhsm2&pin-source=/nothing&pin-value={PIN}"
    )
    seeded = random.Random(12)
    for _ in range(1000):
        assert reason(small_sha1, _mutated(original, seeded), config=b"allowed-module-paths: [/nothing/]")


def _mutated(data: bytes, seeded: random.Random) -> bytes:
    at = seeded.randrange(len(data))
    other = seeded.randrange(len(data))
    match seeded.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([seeded.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at] + seeded.randbytes(3) + data[at:]
        case 3:
            return data[: min(at, other)] + data[max(at, other) :]
        case 4:
            return data.replace(b'"', b"", at % 4 + 1)
        case _:
            token = seeded.choice([b"null", b"0", b"-1", b"[]", b"{}", b'"sha256"', b"1e999", b"true"])
            parts = data.split(b":")
            parts[seeded.randrange(1, len(parts))] = token + b"}"
            return b":".join(parts)


@pytest.mark.parametrize(("hash_name", "size"), [("sha1", 20), ("sha256", 32)])
def test_oaep_padding_is_removed_only_when_it_is_whole(store: TokenStore, hash_name: str, size: int) -> None:
    """Encoded messages are what openssl's bare RSA operation gives; any changed bit of one must be refused."""
    for length in (0, 1, 100, SMALL - 2 * size - 2):
        text = os.urandom(length)
        encoded = store.decrypt_bare("small", store.encrypt("small", text, hash_name))
        assert pkcs11_oaep.unpad(encoded, hash_name) == text
        for at in range(0, len(encoded), 5):
            changed = encoded[:at] + bytes([encoded[at] ^ 1 << at % 8]) + encoded[at + 1 :]
            assert is_refused(changed, hash_name)
    for short in (b"", bytes(2 * size + 1), bytes(2 * size + 2), bytes(SMALL), b"\xff" * SMALL):
        assert is_refused(short, hash_name)


def is_refused(encoded: bytes, hash_name: str) -> bool:
    try:
        pkcs11_oaep.unpad(encoded, hash_name)
    except ValueError:
        return True
    return False

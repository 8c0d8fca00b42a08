"""The installed program: command line, exit statuses, messages, and what it does to bad input."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from decoder import __version__, limits
from decoder.formats import wire
from decoder.keywrap import jwe
from decoder.layer.annotations import KEYS_PREFIX, PUBLIC_OPTIONS
from tests.support.layers import ec_key, encrypted, pem, private_options, public_pem, rsa_key
from tests.support.processes import PROGRAM, ROOT, Result, any_bytes, payload_bytes, run_decoder
from tests.support.program import PLAINTEXT, fails, run_layer

JWE_ANNOTATION = KEYS_PREFIX + "jwe"


def test_decrypts() -> None:
    assert run_layer(encrypted(PLAINTEXT)) == (0, PLAINTEXT, "")
    assert run_layer(encrypted(b"")) == (0, b"", "")


@pytest.mark.parametrize("form", ["--{} {}", "-{} {}", "--{}={}", "-{}={}"])
def test_option_forms(form: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    arguments = form.format("decryption-keys-path", tmp_path).split()
    assert run_layer(encrypted(PLAINTEXT), *arguments, parameters={}) == (0, PLAINTEXT, "")
    arguments += form.format("release", "verified").split()
    assert run_layer(encrypted(PLAINTEXT), *arguments, parameters={}) == (0, PLAINTEXT, "")


def test_payload_keys_and_directory_keys_together(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    others = {"privkeys": [pem(ec_key())], "privkeys-passwords": [b""]}
    result = run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(tmp_path), parameters=others)
    assert result == (0, PLAINTEXT, "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--wrong"], "unknown option '--wrong'"),
        (["--decryption-keys-path"], "--decryption-keys-path needs a value"),
        (["--release", "never"], "--release is streaming or verified, not 'never'"),
        (["layer.tar"], "unexpected argument 'layer.tar'"),
        ([""], "unexpected argument ''"),
        (["--"], "unexpected argument '--'"),
    ],
)
def test_usage_errors(arguments: list[str], text: str) -> None:
    fails(run_layer(encrypted(PLAINTEXT), *arguments), 2, text)


def test_help_and_version() -> None:
    for option in ("--help", "-h", "-help"):
        result = run_decoder(None, b"", option)
        assert (result.status, result.errors) == (0, "")
        assert result.plaintext.startswith(b"usage: ctd-decoder ")
    for option in ("--version", "-v"):
        assert run_decoder(None, b"", option) == (0, f"ctd-decoder {__version__}\n".encode(), "")


def test_no_payload() -> None:
    fails(run_decoder(None, b"x"), 3, "descriptor 3 is not open", "io.containerd.ocicrypt.decoder.v1.tar")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "is empty"),
        (payload_bytes(encrypted(PLAINTEXT).descriptor, {})[:-1], "cut short"),
        (bytes(1 << 30), "larger than"),
        (b"\x12\x80\x80\x80\x80\x04", "cut short"),
        (any_bytes(b"no JSON"), "not JSON"),
        (any_bytes(b"null"), "null"),
        (any_bytes(b"{}"), "media type ''"),
        (payload_bytes({"mediaType": "application/vnd.oci.image.layer.v1.tar"}, {}), "not that of an encrypted layer"),
        (payload_bytes({**encrypted(b"").descriptor, "mediaType": 7}, {}), "Descriptor.mediaType"),
        (payload_bytes({**encrypted(b"").descriptor, "annotations": {"a": "v" * 50_000_000}}, {}), "larger than"),
    ],
    ids=["empty", "truncated", "1GiB", "1GiB-claimed", "no-JSON", "null", "no-members", "plain", "types", "50MB"],
)
def test_bad_payloads(payload: bytes, text: str) -> None:
    fails(run_decoder(payload, b"x"), 3, text)


def test_unreadable_payload_descriptor(tmp_path: Path) -> None:
    for redirection in (f"3<{tmp_path}", f"3>{tmp_path}/file"):
        command = ["/bin/bash", "-c", f'exec "$0" {redirection}', PROGRAM]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
        fails(Result(done.returncode, done.stdout, done.stderr.decode()), 3, "descriptor 3 cannot be read")


def test_a_payload_that_never_ends_is_given_up() -> None:
    program = "from decoder import limits; limits.PAYLOAD_SECONDS = 0.3; from decoder.__main__ import main; main()"
    reading, writing = os.pipe()
    command = ["/bin/bash", "-c", f'exec "$0" -c "$1" 3<&{reading}', sys.executable, program]
    done = subprocess.run(
        command, capture_output=True, timeout=30, pass_fds=[reading], stdin=subprocess.DEVNULL, check=False
    )
    os.close(reading)
    os.close(writing)
    fails(Result(done.returncode, done.stdout, done.stderr.decode()), 3, "did not end within")


PUBLIC: dict[str, Any] = json.loads(wire.decode_base64(encrypted(PLAINTEXT).descriptor["annotations"][PUBLIC_OPTIONS]))


def public(**changes: Any) -> str:
    options = {name: value for name, value in {**PUBLIC, **changes}.items() if value is not None}
    return wire.encode_base64(json.dumps(options).encode())


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (None, "pubopts"),
        ("%", "not base64"),
        (public(cipher=None), "the cipher is ''"),
        (public(cipher="AES_256_GCM"), "the cipher is 'AES_256_GCM'"),
        (public(hmac=None), "HMAC has 0 bytes"),
        (public(hmac="AAAA"), "HMAC has 3 bytes"),
        (public(hmac=wire.encode_base64(bytes(32))), "HMAC differs"),
        (public(cipheroptions={"nonce": wire.encode_base64(bytes(16))}), "nonce that differs"),
        (public(cipheroptions={"nonce": "AAAA"}), "nonce that differs"),
    ],
)
def test_bad_public_options(annotation: str | None, text: str) -> None:
    layer = encrypted(PLAINTEXT)
    layer.descriptor["annotations"][PUBLIC_OPTIONS] = annotation or ""
    result = run_layer(layer)
    fails(result, 5, text)
    assert result.plaintext == (PLAINTEXT[: -limits.TAIL_BYTES] if "differs" in text and "nonce" not in text else b"")


def test_a_lone_public_nonce_does_not_help() -> None:
    nonce = wire.encode_base64(bytes(range(100, 116)))
    options = wire.encode_base64(b"x" * 32)
    lone = json.dumps({"symkey": options, "digest": "", "cipheroptions": {}}).encode()
    layer = encrypted(PLAINTEXT, {"jwe": [jwe.wrap(lone, [public_pem(rsa_key())])]})
    layer.descriptor["annotations"][PUBLIC_OPTIONS] = public(cipheroptions={"nonce": nonce})
    fails(run_layer(layer), 5, "nonce has 0 bytes")


@pytest.mark.parametrize("changes", [{"symmetric_key": bytes(31)}, {"nonce": bytes(15)}, {"nonce": bytes(17)}])
def test_wrong_lengths_in_private_options(changes: dict[str, bytes]) -> None:
    layer = encrypted(PLAINTEXT, {"jwe": [jwe.wrap(private_options(**changes), [public_pem(rsa_key())])]})
    fails(run_layer(layer), 5, "malformed private options")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("%%%", f"{JWE_ANNOTATION}[0]: not base64"),
        ("eA==", f"{JWE_ANNOTATION}[0]: it is not a JWE"),
        ("eA==,%", f"{JWE_ANNOTATION}[1]: not base64"),
        ("A" * (2 * limits.JWE_BYTES), f"{JWE_ANNOTATION}[0]: it is longer than"),
    ],
)
def test_bad_wrapped_keys(annotation: str, text: str) -> None:
    layer = encrypted(PLAINTEXT)
    layer.descriptor["annotations"][JWE_ANNOTATION] = annotation
    fails(run_layer(layer), 4, "no key opens this layer", text)


def test_no_wrapped_key_and_unknown_schemes() -> None:
    fails(run_layer(encrypted(PLAINTEXT, {})), 4, "its descriptor holds no wrapped key")
    fails(run_layer(encrypted(PLAINTEXT, {"smoke": [b"x"]})), 4, f"{KEYS_PREFIX}smoke[0]: this scheme is not supported")


def test_says_what_was_tried_and_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not a key")
    parameters = {"privkeys": [pem(rsa_key(3072)), pem(ec_key())], "privkeys-passwords": [b"", b""]}
    result = run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(tmp_path), parameters=parameters)
    fails(result, 4, "no key opens this layer")
    directory, recipient, *lines = result.errors.splitlines()[1:]
    assert directory == f"  the keys directory '{tmp_path}' holds no private key"
    assert recipient.endswith("keys to try: 2 private keys")
    assert len(lines) == 3
    for line, name, kind in zip(lines, ("privkeys[0]", "privkeys[1]"), ("RSA 3072", "EC P-256"), strict=False):
        assert line.startswith(f"  {JWE_ANNOTATION}[0] with {name} ({kind}, sha256:")
        assert line.endswith(": no recipient has a key of this type and size")
    assert lines[2].startswith("  'README' was skipped: ")


def test_no_keys_at_all_is_said(tmp_path: Path) -> None:
    fails(run_layer(encrypted(PLAINTEXT), parameters={}), 4, "there is no key of this kind to try")
    arguments = ("--decryption-keys-path", str(tmp_path / "absent"))
    fails(run_layer(encrypted(PLAINTEXT), *arguments, parameters={}), 4, "does not exist")


@pytest.mark.parametrize("release", ["streaming", "verified"])
def test_damaged_layers(release: str) -> None:
    layer = encrypted(PLAINTEXT)
    damaged = [layer.ciphertext[:-1], layer.ciphertext + b"\0", b"", layer.ciphertext[1:], layer.ciphertext[:1]]
    places = (0, 1, len(PLAINTEXT) // 2, len(PLAINTEXT) - 1)
    damaged += [
        layer.ciphertext[:at] + bytes([layer.ciphertext[at] ^ 0x80]) + layer.ciphertext[at + 1 :] for at in places
    ]
    for ciphertext in damaged:
        result = run_layer(layer._replace(ciphertext=ciphertext), "--release", release)
        fails(result, 5, "its HMAC differs")
        held_back = limits.TAIL_BYTES if release == "streaming" else len(ciphertext)
        assert len(result.plaintext) == max(0, len(ciphertext) - held_back)
        assert len(result.errors.splitlines()) == 1


def test_reader_that_goes_away() -> None:
    layer = encrypted(bytes(8 * limits.MIB))
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})
    for arguments in ([], ["--release", "verified"]):
        reading, writing = os.pipe()
        os.write(writing, payload)
        os.close(writing)
        command = ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{reading}', PROGRAM, *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[reading]) as process:
            os.close(reading)
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
            _, errors = process.communicate(layer.ciphertext, timeout=30)
        fails(Result(process.returncode, b"", errors.decode()), 7, "standard output: Broken pipe")


@pytest.mark.parametrize(
    ("redirections", "text"),
    [
        (">/dev/full", "standard output: No space left on device"),
        (">&-", "standard output: Bad file descriptor"),
        ("<&-", "standard input: Bad file descriptor"),
    ],
)
def test_broken_streams(redirections: str, text: str, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    (tmp_path / "layer").write_bytes(layer.ciphertext)
    command = f'exec "$0" 3<"$1/payload" <"$1/layer" {redirections}'
    done = subprocess.run(
        ["/bin/bash", "-c", command, PROGRAM, str(tmp_path)], capture_output=True, timeout=30, check=False
    )
    fails(Result(done.returncode, done.stdout, done.stderr.decode()), 7, text)


def test_spool_that_cannot_be_made_or_is_full(tmp_path: Path) -> None:
    absent = run_layer(encrypted(PLAINTEXT), "--release", "verified", environment={"TMPDIR": str(tmp_path / "absent")})
    assert (absent.status, absent.plaintext) == (0, PLAINTEXT)  # tempfile looks further
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    layer = encrypted(bytes(limits.MIB))
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    (tmp_path / "layer").write_bytes(layer.ciphertext)
    command = 'exec "$0" --release verified 3<"$1/payload" <"$1/layer"'
    done = subprocess.run(
        ["/bin/bash", "-c", command, PROGRAM, str(tmp_path)],
        capture_output=True,
        timeout=30,
        check=False,
        preexec_fn=limit,
    )
    fails(Result(done.returncode, done.stdout, done.stderr.decode()), 7, "the spool file: File too large")
    assert done.stdout == b""


def test_waits_for_a_writer_that_stalls() -> None:
    layer = encrypted(PLAINTEXT)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]})
    reading, writing = os.pipe()
    os.write(writing, payload)
    os.close(writing)
    command = ["/bin/bash", "-c", f'exec "$0" 3<&{reading}', PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[reading], bufsize=0
    ) as process:
        os.close(reading)
        assert process.stdin is not None
        process.stdin.write(layer.ciphertext[:100])
        time.sleep(2)
        assert process.poll() is None
        plaintext, _ = process.communicate(layer.ciphertext[100:], timeout=30)
    assert (process.returncode, plaintext) == (0, PLAINTEXT)


def test_nonblocking_pipes() -> None:
    """A pipe that somebody else made non-blocking is waited for, not an error."""
    layer = encrypted(bytes(2 * limits.MIB))
    (payload_read, payload_write), (stdin_read, stdin_write), (stdout_read, stdout_write) = (
        os.pipe() for _ in range(3)
    )
    os.write(payload_write, payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    os.set_blocking(stdin_read, False)
    os.set_blocking(stdout_write, False)
    command = ["/bin/bash", "-c", f'exec "$0" 3<&{payload_read}', PROGRAM]
    with subprocess.Popen(command, stdin=stdin_read, stdout=stdout_write, pass_fds=[payload_read]) as process:
        for descriptor in (payload_read, payload_write, stdin_read, stdout_write):
            os.close(descriptor)
        feeder = threading.Thread(target=write_slowly, args=(stdin_write, layer.ciphertext))
        feeder.start()
        time.sleep(1)  # by now standard output is full
        with open(stdout_read, "rb") as reader:
            plaintext = reader.read()
        feeder.join(30)
        assert process.wait(30) == 0
    assert plaintext == layer.plaintext


def write_slowly(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", 0) as pipe:
        for start in range(0, len(data), 100_000):
            pipe.write(data[start : start + 100_000])
            time.sleep(0.01)


def test_no_secret_in_any_message(tmp_path: Path) -> None:
    secrets = [b"hunter2-password"]
    parameters = {"privkeys": [pem(rsa_key(3072))], "privkeys-passwords": secrets}
    result = run_layer(encrypted(PLAINTEXT), parameters=parameters)
    fails(result, 4)
    assert "hunter2" not in result.errors
    assert pem(rsa_key(3072)).decode().splitlines()[1] not in result.errors


def test_a_defect_of_ours_is_one_line_without_a_traceback() -> None:
    result = with_a_defect({})
    fails(
        result, 70, "internal error: KeyError at decoder.__main__:", "(raised at <string>:1)", f"version {__version__};"
    )
    assert "secret" not in result.errors
    assert result.errors.endswith("please report it\n")  # and no address while there is none


def test_the_address_for_reports() -> None:
    result = with_a_defect({}, "import decoder.project; decoder.project.URL = 'https://example.org/issues'; ")
    fails(result, 70, "please report it at https://example.org/issues")


def with_a_defect(environment: dict[str, str], before: str = "") -> Result:
    program = before + "import decoder.__main__ as m; m.parse_arguments = lambda argv: {}['a secret']; m.main()"
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=False, env=environment
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


def test_the_traceback_of_any_failure_has_places_and_no_values() -> None:
    """Of an internal error, and of a failure that is foreseen, with its causes."""
    debug = {"CTD_DECODER_DEBUG": "1"}
    result = with_a_defect(debug)
    assert result.status == 70
    assert "  decoder.__main__:" in result.errors
    assert "  <string>:1 in <lambda>\n" in result.errors
    assert "secret" not in result.errors
    secrets = [b"hunter2-password"]
    parameters = {"privkeys": [pem(rsa_key(3072))], "privkeys-passwords": secrets}
    result = run_layer(encrypted(PLAINTEXT), parameters=parameters, environment=debug)
    assert result.status == 4
    assert "NoKeyError, most recent call last:\n  decoder.__main__:" in result.errors
    assert " in unwrap_any\n" in result.errors
    assert "hunter2" not in result.errors
    assert "ctd-decoder: error: no key opens this layer" in result.errors
    assert "most recent call last" not in run_layer(encrypted(PLAINTEXT), parameters=parameters).errors


def test_the_hot_path_imports_only_what_it_needs() -> None:
    """A JWE layer must not pay for argument parsers, other schemes or jwcrypto."""
    layer = encrypted(PLAINTEXT)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]})
    program = (
        "import os, sys, decoder.__main__ as m\n"
        "end = os._exit\n"
        "def report(status):\n"
        "    os.write(2, ' '.join(sys.modules).encode()); end(status)\n"
        "os._exit = report\n"
        "m.main()\n"
    )
    reading, writing = os.pipe()
    os.write(writing, payload)
    os.close(writing)
    command = ["/bin/bash", "-c", f'exec "$0" -IS -c "$1" 3<&{reading}', sys.executable]
    paths = [path for path in sys.path if path.endswith("site-packages")] + [str(ROOT)]
    done = subprocess.run(
        [*command, f"import sys; sys.path += {paths!r}\n{program}"],
        input=layer.ciphertext,
        capture_output=True,
        timeout=30,
        pass_fds=[reading],
        check=False,
    )
    os.close(reading)
    assert (done.returncode, done.stdout) == (0, PLAINTEXT)
    loaded = set(done.stderr.decode().split())
    assert "decoder.keywrap.jwe" in loaded
    unwanted = {"argparse", "logging", "dataclasses", "inspect", "importlib.metadata", "threading", "queue", "tempfile"}
    unwanted |= {"jwcrypto", "hashlib", "hmac", "base64", "socket", "subprocess", "ssl", "asyncio", "ctypes", "site"}
    unwanted |= {"cryptography.hazmat.primitives.serialization", "cryptography.x509", "decoder.keywrap.pkcs7"}
    unwanted |= {"decoder.keywrap.pgp", "decoder.keywrap.pkcs11", "yaml", "pysequoia", "asn1crypto"}
    unwanted |= {"cryptography.hazmat.primitives.asymmetric.ec"}
    assert not loaded & unwanted


# Run a program, and print the most memory that it used, in KiB. (A child starts with its parent's figure: a small one.)
_MEASURE = (
    "import os, sys; process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ);"
    "_, status, used = os.wait4(process, 0); print(used.ru_maxrss, file=sys.stderr); sys.exit(status != 0)"
)


def test_memory_does_not_grow_with_the_layer() -> None:
    peaks = []
    for size in (limits.LARGE_AFTER_BYTES + 10 * limits.MIB, 200 * limits.MIB):
        layer = encrypted(bytes(size))
        payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]})
        reading, writing = os.pipe()
        os.write(writing, payload)
        os.close(writing)
        command = ["/bin/bash", "-c", f'exec "$0" -ISc "$1" "$2" 3<&{reading} >/dev/null']
        done = subprocess.run(
            [*command, sys.executable, _MEASURE, PROGRAM],
            input=layer.ciphertext,
            stderr=subprocess.PIPE,
            pass_fds=[reading],
            timeout=60,
            check=False,
        )
        os.close(reading)
        assert done.returncode == 0
        peaks.append(int(done.stderr) * limits.KIB)
    assert max(peaks) < 40 * limits.MIB
    assert abs(peaks[1] - peaks[0]) < 2 * limits.MIB


def test_keys_directories_that_cannot_be_used(tmp_path: Path) -> None:
    """A huge file is passed over, an unreadable directory is the reason in the message."""
    keys = tmp_path / "keys"
    keys.mkdir()
    with (keys / "huge.pem").open("wb") as file:
        file.truncate(100 * limits.MIB)
    fails(
        run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(keys), parameters={}), 4, "is larger than 1048576"
    )
    keys.chmod(0)
    layer = encrypted(PLAINTEXT)
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {}))
    unprivileged = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all"
    command = f'exec {unprivileged} "$0" --decryption-keys-path "$1" 3<"$2" </dev/null'
    done = subprocess.run(
        ["/bin/bash", "-c", command, PROGRAM, str(keys), str(tmp_path / "payload")],
        capture_output=True,
        timeout=30,
        check=False,
    )
    keys.chmod(0o700)
    fails(
        Result(done.returncode, done.stdout, done.stderr.decode()),
        4,
        f"{str(keys)!r} was skipped: Permission denied",
    )


def test_no_key_says_where_it_looked_and_for_whom_the_layer_is(tmp_path: Path) -> None:
    """The first lines tell what to do: which directory was searched, how many keys there are, whom the layer is for."""
    wrapped = {"jwe": [jwe.wrap(private_options(), [public_pem(rsa_key())])], "provider.absent": [b"{}"]}
    layer = encrypted(PLAINTEXT, wrapped)
    lines = [line.strip() for line in run_layer(layer, parameters={}).errors.splitlines()]
    assert lines[1].startswith(f"{KEYS_PREFIX}provider.absent[0]: no keyprovider 'absent' is configured")
    assert lines[2] == "no keys directory is configured (--decryption-keys-path)"
    assert re.fullmatch(r"jwe: the layer is for kid \S+ RSA-OAEP; keys to try: no private keys", lines[3])

    arguments = ("--decryption-keys-path", str(tmp_path))
    lines = run_layer(layer, *arguments, parameters={}).errors.splitlines()
    assert lines[2] == f"  the keys directory '{tmp_path}' is empty"
    (tmp_path / "README").write_text("keys go here")
    lines = run_layer(layer, *arguments, parameters={}).errors.splitlines()
    assert lines[2] == f"  the keys directory '{tmp_path}' holds no private key"
    assert lines[-1] == "  'README' was skipped: it holds no key of a known form"
    (tmp_path / "other.pem").write_bytes(pem(ec_key()))
    lines = run_layer(layer, *arguments, parameters={}).errors.splitlines()
    assert lines[2] == f"  the keys directory '{tmp_path}' holds 1 private key"
    assert lines[3].endswith("keys to try: 1 private key")


@pytest.mark.parametrize(
    ("scheme", "line"),
    [
        ("pkcs7", r"  pkcs7: the layer is for issuer CN=\S.* serial [0-9a-f]+; keys to try: no private keys, .*"),
        ("pgp", r"  pgp: the layer is for [0-9A-F]{16}; keys to try: no files of OpenPGP secret keys"),
    ],
)
def test_no_key_names_the_recipients_of_each_scheme(scheme: str, line: str) -> None:
    cases = json.loads((ROOT / "tests/vectors/cases.json").read_text())
    descriptor = next(
        case["descriptor"] for case in cases if next(iter(case["descriptor"]["annotations"])) == KEYS_PREFIX + scheme
    )
    result = run_decoder(payload_bytes(descriptor, {}), b"")
    assert result.status == 4
    assert re.search(f"^{line}$", result.errors, re.MULTILINE), result.errors


def test_no_key_names_the_recipients_on_tokens() -> None:
    """A token's wrapped key names nobody: its size and hash are all that tells."""
    blobs = [
        {"version": 0, "blob": b64encode(bytes(size)).decode(), "hash": name}
        for size, name in ((256, "sha256"), (384, "sha1"))
    ]
    wrapped = json.dumps({"version": 0, "recipients": blobs}).encode()
    result = run_layer(encrypted(PLAINTEXT, {"pkcs11": [wrapped]}), parameters={})
    assert result.status == 4
    line = "  pkcs11: the layer is for RSA 2048 OAEP sha256, RSA 3072 OAEP sha1; keys to try: no PKCS#11 key files"
    assert line in result.errors.splitlines(), result.errors

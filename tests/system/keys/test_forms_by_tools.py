"""Private keys in odd forms as openssl writes them, opened by ours and, where it can, by the reference."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from decoder.errors import KeyFileError
from decoder.keys.file import recognise
from decoder.keywrap import jwe
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.program.processes import PROGRAM, REFERENCE, payload_bytes, run_decoder

PASSWORD = "correct horse"
_LEGACY = ["-provider", "legacy", "-provider", "default"]


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path)
    openssl("pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub"))
    return path


def opens(public: Path, private: bytes, password: bytes = b"", program: str | None = None) -> bool:
    """Encrypt a layer to a public key, and decrypt it with a private one."""
    layer = encrypted(b"plain", {"jwe": [jwe.wrap(private_options(), [public.read_bytes()])]})
    payload = payload_bytes(layer.descriptor, {"privkeys": [private], "privkeys-passwords": [password]})
    result = run_decoder(payload, layer.ciphertext, program=program or PROGRAM)
    assert (result.status == 0) == (result.plaintext == b"plain"), result.errors
    return result.status == 0


@pytest.mark.parametrize("cipher", ["-des", "-des3", "-aes128", "-aes192", "-aes256"])
def test_legacy_pem(cipher: str, key: Path, tmp_path: Path) -> None:
    path = tmp_path / "legacy.pem"
    openssl("rsa", "-in", key, "-traditional", cipher, "-passout", f"pass:{PASSWORD}", "-out", path, *_LEGACY)
    for program in (None, REFERENCE):
        assert opens(key.with_suffix(".pub"), path.read_bytes(), PASSWORD.encode(), program), program


@pytest.mark.parametrize("form", ["pkcs1", "pkcs8"])
def test_three_primes(form: str, tmp_path: Path) -> None:
    path, public = tmp_path / "key.pem", tmp_path / "key.pub"
    primes = ["-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_primes:3"]
    openssl("genpkey", "-algorithm", "RSA", *primes, "-out", path)
    openssl("pkey", "-in", path, "-pubout", "-out", public)
    if form == "pkcs1":
        openssl("rsa", "-in", path, "-traditional", "-out", path)
    for program in (None, REFERENCE):
        assert opens(public, path.read_bytes(), program=program), program


@pytest.fixture(scope="module")
def three_primes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "three.pem"
    primes = ["-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_primes:3"]
    openssl("genpkey", "-algorithm", "RSA", *primes, "-out", path)
    openssl("pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub"))
    return path


@pytest.mark.parametrize(
    "form",
    [
        *("pkcs8 -topk8 -v2 aes-256-cbc", "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1", "pkcs8 -topk8 -v2 des3"),
        *("pkcs8 -topk8 -scrypt", "pkcs8 -topk8 -v2 aes-192-cbc -v2prf hmacWithSHA512"),
        *("rsa -traditional -aes128", "pkcs12 -export -nocerts"),
    ],
)
def test_three_primes_encrypted(form: str, three_primes: Path, tmp_path: Path) -> None:
    """The reference reads the legacy form alone."""
    path = tmp_path / "key"
    given = "-inkey" if form.startswith("pkcs12") else "-in"
    openssl(*form.split(), given, three_primes, "-passout", f"pass:{PASSWORD}", "-out", path)
    for program in (None, REFERENCE) if "traditional" in form else (None,):
        assert opens(three_primes.with_suffix(".pub"), path.read_bytes(), PASSWORD.encode(), program), program
    for password, told in ((b"wrong", "the password does not open it"), (b"", "password")):
        with pytest.raises(KeyFileError, match=told):
            recognise("k", path.read_bytes(), password).private[0].load()


def test_three_primes_within_pbes1_may_be_the_reason(three_primes: Path, tmp_path: Path) -> None:
    path = tmp_path / "key"
    options = ["-passout", f"pass:{PASSWORD}", *_LEGACY]
    openssl("pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-in", three_primes, "-out", path, *options)
    with pytest.raises(KeyFileError, match="or the key in it is malformed or not supported"):
        recognise("k", path.read_bytes(), PASSWORD.encode()).private[0].load()


def test_labels_and_blank_lines_that_the_reference_reads_too(key: Path) -> None:
    text = key.read_bytes()
    for changed in (
        text.replace(b"PRIVATE KEY", b"RSA PRIVATE KEY"),
        text.replace(b"PRIVATE KEY", b"EC PRIVATE KEY"),
        text.replace(b"\n", b"\n\n"),
        text.replace(b"\n", b"\r\n"),
        b"\n" + text + b"\n\n",
    ):
        for program in (None, REFERENCE):
            assert opens(key.with_suffix(".pub"), changed, program=program), (changed[:60], program)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["-v2", "camellia-256-cbc"], "Camellia-256-CBC"),
        (["-v2", "aria-128-cbc"], "ARIA-128-CBC"),
        (["-v2", "seed-cbc"], "SEED-CBC"),
        (["-v2", "des-cbc"], "DES-CBC"),
        (["-v1", "PBE-SHA1-2DES"], "PBE-SHA1-2DES"),
        (["-v2", "aes-256-cbc", "-v2prf", "hmacWithMD5"], "PBKDF2 with HMAC-MD5"),
    ],
)
def test_a_cipher_that_is_not_supported_is_named(options: list[str], name: str, key: Path, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    openssl("pkcs8", "-topk8", *options, "-in", key, "-out", path, "-passout", f"pass:{PASSWORD}", *_LEGACY)
    for password in (b"", PASSWORD.encode(), b"wrong"):
        with pytest.raises(KeyFileError) as caught:
            recognise("k", path.read_bytes(), password).private[0].load()
        expected = f"it is encrypted with {name}, which is not supported"
        assert str(caught.value) == expected if password else caught.value

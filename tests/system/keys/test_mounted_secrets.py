"""Secrets as Kubernetes mounts them: files that are links to a directory, which is replaced by another one."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from decoder.keywrap import jwe
from decoder.keywrap.keyprovider import KeyProvider
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.keywrap.layers import ec_key, encrypted, pem, private_options, public_pem, rsa_key
from tests.support.kubernetes.mounted_secrets import TLS_FILES, Volume, certificates
from tests.support.program.processes import Result, payload_bytes, run_decoder
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt
from tests.support.provider.serving import KEYPROVIDER, Server, ask, openssl, request_of, result_of, wait_for
from tests.support.services.bao_server import BaoServer

USER = 65532  # any but root
_SECONDS = 120


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "secret")


# -- the keys of a node


def test_keys_directory(volume: Volume) -> None:
    volume.write({"node.pem": pem(rsa_key())})
    assert decrypt_with(volume) == (0, PLAINTEXT, "")
    volume.write({"node.pem": pem(ec_key())})
    assert decrypt_with(volume).status == 4
    volume.write({"other.pem": pem(rsa_key())})
    assert decrypt_with(volume) == (0, PLAINTEXT, "")


def test_an_encrypted_key_with_its_password(volume: Volume, tmp_path: Path) -> None:
    plain, secret = tmp_path / "plain.pem", tmp_path / "encrypted.pem"
    plain.write_bytes(pem(rsa_key()))
    openssl("pkcs8", "-topk8", "-in", plain, "-out", secret, "-passout", "pass:first")
    volume.write({"node.pem": secret.read_bytes(), "node.pem.pass": b"first\n"})
    assert decrypt_with(volume) == (0, PLAINTEXT, "")
    volume.write({"node.pem": secret.read_bytes(), "node.pem.pass": b"second\n"})
    assert decrypt_with(volume).status == 4


def decrypt_with(volume: Volume) -> Result:
    layer = encrypted(PLAINTEXT, {"jwe": [jwe.wrap(private_options(), [public_pem(rsa_key())])]})
    payload = payload_bytes(layer.descriptor, None)
    return run_decoder(payload, layer.ciphertext, "--decryption-keys-path", str(volume.directory))


# -- our own providers


@pytest.mark.parametrize("option", ["keys", "key"])
def test_local(option: str, volume: Volume, tmp_path: Path) -> None:
    place = volume.directory / ("image.key" if option == "key" else "")
    entry = {"native": "local", option: str(place), "allow-key": ["local://image.key"]}
    volume.write({"image.key": b"a" * 32})
    first = wrap(entry, tmp_path, "local://image.key")
    assert open_with(entry, first, tmp_path) == (0, PLAINTEXT, "")
    volume.write({"image.key": b"b" * 32})
    assert open_with(entry, first, tmp_path).status == 6
    assert open_with(entry, wrap(entry, tmp_path, "local://image.key"), tmp_path) == (0, PLAINTEXT, "")


def test_pkcs11(volume: Volume, tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.add_token("layers")
    store.add_key("layers", "first", "01", 2048)
    store.add_key("layers", "second", "02", 2048)
    config = tmp_path / "modules.conf"
    config.write_text(f"pkcs11:\n  allowed-module-paths: [{softhsm()}]\n")
    entry = {"native": "pkcs11", "key": str(volume.directory), "config": str(config)}
    volume.write({"image.yaml": store.yaml("token=layers;object=first")})
    first = wrap(entry, tmp_path, "image.yaml")
    assert open_with(entry, first, tmp_path) == (0, PLAINTEXT, "")
    volume.write({"image.yaml": store.yaml("token=layers;object=second")})
    assert open_with(entry, first, tmp_path).status == 6


@pytest.fixture
def bao(tmp_path: Path) -> Iterator[BaoServer]:
    (tmp_path / "bao").mkdir()
    server = BaoServer(tmp_path / "bao")
    try:
        yield server
    finally:
        server.stop()


def test_token_of_openbao(bao: BaoServer, volume: Volume, tmp_path: Path) -> None:
    bao.add_key("images")
    bao.allow("images", "transit/encrypt/images", "transit/decrypt/images")
    volume.write({"token": bao.token("images").encode(), "ca.crt": bao.ca_file.read_bytes()})
    files = {"token-file": str(volume.directory / "token"), "ca-file": str(volume.directory / "ca.crt")}
    entry = {"native": "openbao", "address": bao.url, "key": "images", **files}
    wrapped = wrap(entry, tmp_path)
    assert open_with(entry, wrapped, tmp_path) == (0, PLAINTEXT, "")
    volume.write({"token": b"s.revoked", "ca.crt": bao.ca_file.read_bytes()})
    assert open_with(entry, wrapped, tmp_path).status == 6


def wrap(entry: dict[str, Any], directory: Path, *parameters: str) -> bytes:
    provider = KeyProvider(NAME, configuration(directory, {NAME: entry}))
    return provider.wrap(private_options(), [text.encode() for text in parameters])


def open_with(entry: dict[str, Any], wrapped: bytes, directory: Path) -> Result:
    layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [wrapped]})
    return decrypt(configuration(directory, {NAME: entry}), layer)


# -- the server


def test_certificates_of_the_server(volume: Volume, tmp_path: Path) -> None:
    """Files that a Secret's update replaces count without a new start, for the server's own certificate and the CA."""
    volume.write(certificates(tmp_path, "first"))
    tls = [f"--{option}={volume.directory / name}" for option, name in TLS_FILES.items()]
    keys = Volume(tmp_path / "keys")
    keys.write({"image.key": b"a" * 32})
    arguments = ("--provider=local", f"--keys={keys.directory}", "--listen=127.0.0.1:0", *tls)
    with Server(tmp_path, *arguments) as server:
        assert unwraps(server, tmp_path, "first")
        volume.write(certificates(tmp_path, "second"))
        wait_for(lambda: unwraps(server, tmp_path, "second"))
        assert not unwraps(server, tmp_path, "first")


def test_keys_that_the_server_gets_while_it_runs(volume: Volume, tmp_path: Path) -> None:
    volume.write({"image.key": b"a" * 32})
    arguments = ("--provider=local", f"--keys={volume.directory}", "--listen=127.0.0.1:0")
    request = request_of("keywrap", private_options(), {NAME: ["local://later.key"]})
    with Server(tmp_path, *arguments) as server, grpc.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.RpcError):
            ask(channel, "WrapKey", request)
        volume.write({"later.key": b"b" * 32})
        wrapped = result_of(ask(channel, "WrapKey", request))
        assert result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", wrapped))) == private_options()


def test_a_user_other_than_root_reads_what_its_group_may() -> None:
    """A pod with fsGroup: files are root's, and its group may read them."""
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        volume = Volume(Path(public, "keys"), USER)
        volume.write({"image.key": b"a" * 32})
        result = subprocess.run(
            [*KEYPROVIDER, "run", "--provider=local", f"--keys={volume.directory}"],
            input=request_of("keywrap", private_options(), {NAME: ["local://image.key"]}),
            capture_output=True,
            user=USER,
            group=USER,
            extra_groups=[],
            cwd="/",
            timeout=_SECONDS,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert private_options() not in result_of(result.stdout)


def unwraps(server: Server, directory: Path, authority: str) -> bool:
    """Tell whether the server and a client with the certificates of this authority accept each other."""
    files = (f"{authority}.pem", f"{authority}-client.key", f"{authority}-client.pem")
    credentials = grpc.ssl_channel_credentials(*((directory / name).read_bytes() for name in files))
    options = (("grpc.ssl_target_name_override", "keyprovider"),)
    with grpc.secure_channel(server.target, credentials, options) as channel:
        try:
            request = request_of("keywrap", private_options(), {NAME: ["local://image.key"]})
            wrapped = result_of(ask(channel, "WrapKey", request))
        except grpc.RpcError:
            return False
        return result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", wrapped))) == private_options()

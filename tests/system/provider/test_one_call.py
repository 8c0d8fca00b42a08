"""An image of 21 layers costs each key service one call to encrypt and one to decrypt: natively, and through a server.

The calls are counted at the key service: by the audit of OpenBao itself, and by what servers that play AWS and Azure
received. Of a PKCS#11 token they are counted by our server.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.image import images
from tests.support.image.command import done, oci
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.network.loopback import Answer, Asked, Loopback
from tests.support.provider.client_parts import NAME, configuration
from tests.support.provider.serving import Server
from tests.support.services.aws_server import REGION, kms_client, running_moto, use_test_account
from tests.support.services.azure_cloud import CLIENT, SECRET, TENANT, VAULT, Cloud
from tests.support.services.bao_server import ROOT_TOKEN, BaoServer

LAYERS = 21


class KeyService(NamedTuple):
    """A key service with a key, and how to count what it was asked.

    Attributes:
        provider: its name.
        options: those of the provider.
        count: counts the calls to `wrap` and to `unwrap`.
    """

    provider: str
    options: dict[str, str]
    count: Callable[[str], int]


@contextmanager
def openbao(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyService]:
    server = BaoServer(directory)
    try:
        server.add_key("layers")
        server.audited("")
        monkeypatch.setenv("BAO_TOKEN", ROOT_TOKEN)
        paths = {"wrap": "transit/encrypt/layers", "unwrap": "transit/decrypt/layers"}
        options = {"address": server.url, "ca-file": str(server.ca_file), "key": "layers"}
        yield KeyService("openbao", options, lambda verb: server.audited(paths[verb]))
    finally:
        server.stop()


@contextmanager
def awskms(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyService]:
    use_test_account(monkeypatch, directory)
    with running_moto() as moto:

        def forward(asked: Asked) -> Answer:
            headers = {name: value for name, value in asked.headers.items() if name not in ("host", "content-length")}
            request = urllib.request.Request(moto + asked.path, asked.body, headers)
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, response.read(), {"Content-Type": response.headers["Content-Type"]})

        client = kms_client(moto)
        arn = client.create_key()["KeyMetadata"]["Arn"]
        client.close()
        with Loopback(forward) as between:
            targets = {"wrap": "TrentService.Encrypt", "unwrap": "TrentService.Decrypt"}
            yield KeyService(
                "awskms",
                {"endpoint": between.url, "region": REGION, "key": arn},
                lambda verb: sum(each.headers.get("x-amz-target") == targets[verb] for each in between.asked),
            )


@contextmanager
def azurekv(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyService]:
    with Cloud(directory) as cloud:
        client = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
        for name, value in (cloud.environment | client).items():
            monkeypatch.setenv(name, value)
        options = {"ca-file": str(cloud.authority.file), "key": f"https://{VAULT}/keys/layers"}

        def count(verb: str) -> int:
            asked = [each for each in cloud.vault.asked if "authorization" in each.headers]
            return sum(f"/{verb}key?" in each.path for each in asked)

        yield KeyService("azurekv", options, count)


SERVICES: dict[str, Any] = {"openbao": openbao, "awskms": awskms, "azurekv": azurekv}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    tars = [images.tar_of({f"file{number}": b"%d" % number}) for number in range(LAYERS)]
    directory = tmp_path_factory.mktemp("plain")
    return images.write_layers(directory / "image", [images.packed(tar, images.TAR) for tar in tars])


@pytest.fixture(params=SERVICES)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeyService]:
    with SERVICES[request.param](tmp_path_factory.mktemp(request.param), monkeypatch) as found:
        yield found


def wrap_types(directory: Path) -> set[str]:
    (manifest,) = json.loads((directory / "index.json").read_bytes())["manifests"]
    layers = json.loads((directory / "blobs" / manifest["digest"].replace(":", "/")).read_bytes())["layers"]
    assert len(layers) == LAYERS
    name = f"org.opencontainers.image.enc.keys.provider.{NAME}"
    return {json.loads(base64.b64decode(layer["annotations"][name]))["wrap_type"] for layer in layers}


def encrypt_and_decrypt(config: str, layout: images.Layout, directory: Path) -> None:
    """Run the commands; each is a process of its own, so nothing is kept between them but in a server."""
    target = f"oci:{directory}/encrypted:tag"
    options = ("--keyprovider-config", config)
    done("encrypt", "--no-verify", "--recipient", f"provider:{NAME}", *options, oci(layout), target)
    assert wrap_types(directory / "encrypted") == {"ctd-kek/1"}
    done("decrypt", "--key", f"provider:{NAME}", *options, target, f"oci:{directory}/decrypted:tag")


def test_natively(service: KeyService, layout: images.Layout, tmp_path: Path) -> None:
    config = configuration(tmp_path, {NAME: {"native": service.provider, **service.options}})
    encrypt_and_decrypt(config, layout, tmp_path)
    assert (service.count("wrap"), service.count("unwrap")) == (1, 1)
    target = f"oci:{tmp_path}/encrypted:tag"
    for verb in ("layerinfo", "check"):
        before = service.count("unwrap")
        done(verb, "--key", f"provider:{NAME}", "--keyprovider-config", config, target)
        assert service.count("unwrap") - before <= 1


def test_through_a_server_with_several_processes(service: KeyService, layout: images.Layout, tmp_path: Path) -> None:
    """Nodes that do not share anything ask it, over connections to all of its processes."""
    options = [argument for name, value in service.options.items() for argument in (f"--{name}", value)]
    listen = ("--listen", "127.0.0.1:0", "--processes", "2")
    with Server(tmp_path, "--provider", service.provider, *options, *listen) as server:
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        encrypt_and_decrypt(config, layout, tmp_path)
        for number in range(4):
            key = ("--key", f"provider:{NAME}", "--keyprovider-config", config)
            done("decrypt", *key, f"oci:{tmp_path}/encrypted:tag", f"oci:{tmp_path}/again{number}:tag")
        assert (service.count("wrap"), service.count("unwrap")) == (1, 1)
        assert [line["operation"] for line in server.audit] == ["wrap-kek"] + ["unwrap-kek"] * 5


def test_a_token(layout: images.Layout, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    store = TokenStore(tmp_path / "tokens")
    store.add_token("layers")
    store.add_key("layers", "image", "01", 2048)
    key, modules = tmp_path / "image.yaml", tmp_path / "modules.conf"
    key.write_bytes(store.yaml("token=layers;object=image"))
    modules.write_text(json.dumps({"pkcs11": {"allowed-module-paths": [softhsm()]}}))
    options = {"key": str(key), "config": str(modules)}
    native = configuration(tmp_path, {NAME: {"native": "pkcs11", **options}})
    encrypt_and_decrypt(native, layout, tmp_path)
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
    listen = ("--listen", "127.0.0.1:0", "--processes", "2", "--metrics", "127.0.0.1:0")
    with Server(tmp_path, "--provider", "pkcs11", *arguments, *listen) as server:
        (tmp_path / "served").mkdir()
        config = configuration(tmp_path / "served", {NAME: {"grpc": server.target}})
        encrypt_and_decrypt(config, layout, tmp_path / "served")
        numbers = server.metrics()
    name = "ctd_keyprovider_backend_requests_total"
    assert [numbers[name, verb, "ok", "pkcs11"] for verb in ("wrap-kek", "unwrap-kek", "wrap", "unwrap")] == [
        1,
        1,
        0,
        0,
    ]

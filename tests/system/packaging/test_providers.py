"""Every provider of the installed packages does its whole work against a key service; deb and rpm."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from decoder.grants.place import build_place
from decoder.layer.annotations import parse_private_options
from decoder.provider import PROVIDERS, envelope
from decoder.provider.client import protocol
from tests.support.coco.cdh_server import Hub
from tests.support.image.grants import KEK, Parties, new_key, write_private
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.keywrap.layers import encrypted, private_options, public_pem
from tests.support.program.environment import forget
from tests.support.program.processes import payload_bytes, run_decoder
from tests.support.provider.client_parts import PLAINTEXT, configuration
from tests.support.provider.serving import SAMPLE_KEY, Server, write_key
from tests.support.registry.memory_registry import MemoryRegistry
from tests.support.services.aws_server import ACCESS_KEY, REGION, SECRET_KEY, kms_client, running_moto
from tests.support.services.azure_cloud import CLIENT, SECRET, TENANT, Cloud
from tests.support.services.azurekv_parts import KEY as AZURE_KEY
from tests.support.services.bao_server import ROOT_TOKEN, BaoServer
from tests.support.services.gcp_server import running_google
from tests.support.services.gcpkms_parts import URI as GOOGLE_KEY

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

OPTIONS = private_options()
_UNPACK = {"deb": "dpkg-deb --extract {package} {root}", "rpm": "cd {root} && rpm2cpio {package} | cpio -idm --quiet"}
_KEK_ID = "default/image_key/packaged"


class Service(NamedTuple):
    """A key service that runs, as a provider is configured for it.

    Attributes:
        options: of the provider.
        environment: what it needs beside them.
        parameters: what is given to wrap.
        annotation: what is wrapped already, where the provider only unwraps.
    """

    options: dict[str, Any]
    environment: dict[str, str]
    parameters: tuple[str, ...] = ()
    annotation: bytes = b""


def local(directory: Path, _: ExitStack) -> Service:
    return Service({"key": str(write_key(directory / "key"))}, {})


def awskms(_: Path, stack: ExitStack) -> Service:
    endpoint = stack.enter_context(running_moto())
    account = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in account.items():
            patch.setenv(name, value)
        key = kms_client(endpoint).create_key()["KeyMetadata"]["Arn"]
    return Service({"key": key, "endpoint": endpoint}, account)


def azurekv(directory: Path, stack: ExitStack) -> Service:
    cloud = stack.enter_context(Cloud(directory))
    client = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
    return Service({"key": AZURE_KEY, "ca-file": str(cloud.authority.file)}, {**cloud.environment, **client})


def gcpkms(directory: Path, stack: ExitStack) -> Service:
    google = stack.enter_context(running_google(directory))
    return Service({name: str(value) for name, value in google.options(key=GOOGLE_KEY).items()}, {})


def openbao(directory: Path, stack: ExitStack) -> Service:
    bao = BaoServer(directory)
    stack.callback(bao.stop)
    bao.add_key("layers")
    return Service({"address": bao.url, "ca-file": str(bao.ca_file), "key": "layers"}, {"BAO_TOKEN": ROOT_TOKEN})


def pkcs11(directory: Path, _: ExitStack) -> Service:
    store = TokenStore(directory)
    store.add_token("layers")
    store.add_key("layers", "packaged", "01", 2048)
    (directory / "key.yaml").write_bytes(store.yaml("token=layers;object=packaged"))
    (directory / "modules.conf").write_text(json.dumps({"pkcs11": {"allowed-module-paths": [softhsm()]}}))
    return Service({"key": str(directory / "key.yaml"), "config": str(directory / "modules.conf")}, {})


def attestation_agent(directory: Path, stack: ExitStack) -> Service:
    """The key comes over gRPC and, should that fail, over ttrpc or HTTP: each is tried alone below."""
    hub = Hub({_KEK_ID: SAMPLE_KEY})
    address = stack.enter_context(hub.grpc())
    spec = f"keyid=kbs:///{_KEK_ID}::keypath={write_key(directory / 'kek')}"
    return Service({"source": f"cdh-grpc:{address}"}, {}, (spec,))


def grants(directory: Path, stack: ExitStack) -> Service:
    """An owner has granted this node what is in a registry."""
    registry = stack.enter_context(MemoryRegistry())
    parties = Parties(registry, new_key(), new_key(), new_key())
    parties.put_sealed(parties.sealed(layers=(parse_private_options(OPTIONS).digest,)))
    parties.grant()
    (directory / "owner.pub").write_bytes(public_pem(parties.owner._private))
    owner = f"{registry.host}/team/*={directory / 'owner.pub'}"
    kek = envelope.KEK_PREFIX + KEK
    annotation = envelope.seal(kek, "grants", build_place(parties.place), OPTIONS)
    return Service({"key": str(write_private(directory / "node", parties.node)), "owner": owner}, {}, (), annotation)


SERVICES = {
    "grants": grants,
    "local": local,
    "awskms": awskms,
    "azurekv": azurekv,
    "gcpkms": gcpkms,
    "openbao": openbao,
    "pkcs11": pkcs11,
    "attestation-agent": attestation_agent,
}


@pytest.fixture(scope="module", params=["deb", "rpm"])
def program(request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of the packages of one kind, in a root of their own."""
    root = tmp_path_factory.mktemp(request.param)
    packages = sorted(built.directory.glob(f"*.{request.param}"))
    assert len(packages) == 2
    for package in packages:
        command = _UNPACK[request.param].format(package=package, root=root)
        subprocess.run(["sh", "-c", command], check=True, timeout=120)
    return str(root / "usr/bin/ctd-decoder")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """All key services, which run for both kinds of packages."""
    with ExitStack() as stack:
        yield {name: start(tmp_path_factory.mktemp(name), stack) for name, start in SERVICES.items()}


@contextmanager
def surroundings(service: Service) -> Iterator[None]:
    """Have the environment of a service, and none of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        forget(patch, "AWS_", "AZURE_", "BAO_", "VAULT_", "GOOGLE_")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in service.environment.items():
            patch.setenv(name, value)
        yield


def flags(service: Service) -> list[str]:
    return [text for name, value in service.options.items() for text in (f"--{name}", str(value))]


def wrap(program: str, name: str, service: Service) -> bytes:
    """Wrap with the packages' command."""
    request = protocol.build_request("keywrap", OPTIONS, name, [text.encode() for text in service.parameters])
    command = [program, "keyprovider", "run", "--provider", name, *flags(service)]
    result = subprocess.run(command, input=request, capture_output=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return protocol.parse_reply("keywrap", result.stdout)


def decrypts(program: str, directory: Path, entry: dict[str, Any], annotation: bytes) -> None:
    """Have the packages' decoder open a layer, through an entry in the configuration."""
    layer = encrypted(PLAINTEXT, {"provider.packaged": [annotation]})
    environment = {"OCICRYPT_KEYPROVIDER_CONFIG": configuration(directory, {"packaged": {**entry, "timeout": 60}})}
    payload = payload_bytes(layer.descriptor, {})
    result = run_decoder(payload, layer.ciphertext, "--no-agent", program=program, environment=environment)
    assert (result.status, result.errors) == (0, ""), result.errors
    assert result.plaintext == PLAINTEXT


def test_every_provider_is_driven() -> None:
    assert set(SERVICES) == set(PROVIDERS)


@pytest.mark.parametrize("name", SERVICES)
def test_it_wraps_and_the_decoder_opens(name: str, program: str, services: dict[str, Service], tmp_path: Path) -> None:
    """As a command, and natively."""
    service = services[name]
    with surroundings(service):
        annotation = service.annotation or wrap(program, name, service)
        assert OPTIONS not in annotation
        decrypts(program, tmp_path, {"native": name, **service.options}, annotation)
        arguments = ["keyprovider", "run", "--provider", name, *flags(service)]
        decrypts(program, tmp_path, {"cmd": {"path": program, "args": arguments}}, annotation)


def test_the_server_opens_over_grpc(program: str, services: dict[str, Service], tmp_path: Path) -> None:
    service = services["local"]
    annotation = wrap(program, "local", service)
    address = f"unix://{tmp_path}/grpc.sock"
    arguments = ["--provider", "local", *flags(service), "--listen", address]
    with Server(tmp_path, *arguments, program=(program, "keyprovider")):
        decrypts(program, tmp_path, {"grpc": address}, annotation)


@pytest.mark.parametrize("kind", ["cdh-rest", "cdh-ttrpc"])
def test_a_hub_over_its_other_protocols(kind: str, program: str, services: dict[str, Service], tmp_path: Path) -> None:
    hub = Hub({_KEK_ID: SAMPLE_KEY})
    annotation = wrap(program, "attestation-agent", services["attestation-agent"])
    with ExitStack() as stack:
        if kind == "cdh-rest":
            source = f"cdh-rest:{stack.enter_context(hub.rest()).url}"
        else:
            stack.enter_context(hub.ttrpc(tmp_path / "cdh.sock"))
            source = f"cdh-ttrpc:{tmp_path}/cdh.sock"
        with surroundings(Service({}, {})):
            decrypts(program, tmp_path, {"native": "attestation-agent", "source": source}, annotation)


def test_a_token_opens_a_layer_of_its_own(program: str, services: dict[str, Service], tmp_path: Path) -> None:
    """The scheme `pkcs11`: the program starts itself, for there is no other Python in the packages."""
    from decoder.keywrap import pkcs11 as scheme
    from decoder.keywrap.pkcs11.config import Pkcs11Config

    directory = Path(services["pkcs11"].options["key"]).parent
    public = (directory / "packaged.pub.pem").read_bytes()
    wrapped = scheme.wrap_with(OPTIONS, [public], Pkcs11Config(), "sha1")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/key.yaml").write_bytes((directory / "key.yaml").read_bytes())
    layer = encrypted(PLAINTEXT, {"pkcs11": [wrapped]})
    environment = {"OCICRYPT_CONFIG": services["pkcs11"].options["config"]}
    options = ["--decryption-keys-path", str(tmp_path / "keys"), "--no-agent"]
    result = run_decoder(
        payload_bytes(layer.descriptor, {}), layer.ciphertext, *options, program=program, environment=environment
    )
    assert (result.status, result.errors) == (0, "")
    assert result.plaintext == PLAINTEXT


def test_no_plain_python(program: str) -> None:
    """Neither a file of that name nor a name for the program makes it run somebody's code."""
    root = Path(program).parents[2]
    assert [path.name for path in sorted((root / "usr/lib/ctd-decoder/bin").iterdir())] == ["client", "ctd-decoder"]
    assert not [path for path in root.rglob("python*") if path.is_file() and os.access(path, os.X_OK)]
    binary = str(root / "usr/lib/ctd-decoder/bin/ctd-decoder")
    for name in ("python3", "python3.11", "/usr/bin/python", "install-on-node"):
        for arguments in (["-c", "print('ran')"], ["-m", "platform"], ["-"]):
            result = subprocess.run(
                [name, *arguments],
                executable=binary,
                input=b"print('ran')",
                capture_output=True,
                timeout=60,
                check=False,
                env={"PYTHONSTARTUP": "/dev/stdin", "PYTHONINSPECT": "1"},
            )
            assert result.returncode == 2, (name, arguments, result)
            assert result.stdout == b""
            assert result.stderr.startswith(
                (b"ctd-decoder: error: unknown option", b"ctd-decoder: error: unexpected argument")
            )


def test_nobody_else_starts_the_child_for_tokens(program: str) -> None:
    binary = str(Path(program).parents[2] / "usr/lib/ctd-decoder/bin/ctd-decoder")
    request = json.dumps({"module": softhsm(), "environment": {}, "blobs": [], "pin": b64encode(b"1").decode()})
    result = subprocess.run(
        [binary, "--pkcs11-child"], input=request.encode(), capture_output=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == b"ctd-decoder: error: --pkcs11-child is internal: only ctd-decoder itself may pass it\n"

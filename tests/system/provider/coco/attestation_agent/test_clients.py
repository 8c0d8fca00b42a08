"""The keyprovider attestation-agent as a command, as a server, and in image encrypt."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.image.command import done, image, oci
from tests.support.image.images import Layout
from tests.support.image.layouts import add_image, publish, tar
from tests.support.program.processes import ROOT
from tests.support.provider.serving import Server, ask, configure, execute, request_of, result_of, write_command
from tests.support.registry.skopeo import run_skopeo

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.coco.attestation_parts import KEY, KID, NAME, OPTIONS, agent, opened

ANNOTATION = f"org.opencontainers.image.enc.keys.provider.{NAME}"
REQUESTS = json.loads((ROOT / "tests/support/provider/requests.json").read_bytes())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    plain = Layout(tmp_path / "plain")
    return publish(plain, add_image(plain, "amd64", [tar("base"), tar("middle"), tar("top")]))


def packets_of(target: Layout) -> list[dict[str, str]]:
    return [json.loads(b64decode(each["annotations"][ANNOTATION])) for each in target.layers]


# -- as a command and as a server


@pytest.mark.parametrize("case", REQUESTS, ids=[case["name"] for case in REQUESTS])
def test_requests_of_every_client(keypath: Path, source: str, case: dict[str, Any]) -> None:
    request = case["request"]
    options = case["options"].encode()
    spec = b64encode(f"keyid={KID}::keypath={keypath}".encode()).decode()
    if request["op"] == "keywrap":
        form = request["keywrapparams"]["ec"] or {}
        parameters = form.get("Parameters") or {}
        own = [name for name in parameters if not name.startswith(("privkeys", "pubkeys", "x509s", "gpg", "pkcs11"))]
        named = {own[0] if own else NAME: as_sent(spec, parameters)}
        request = {**request, "keywrapparams": {**request["keywrapparams"], "ec": {**form, "Parameters": named}}}
        answered = execute("run", "--provider", NAME, request=json.dumps(request).encode())
        assert (answered.returncode, answered.stderr) == (0, b"")
        assert opened(json.loads(result_of(answered.stdout)), KEY) == options
        return
    packet = agent().wrap(options, [f"keyid={KID}::keypath={keypath}"])
    sent = request["keyunwrapparams"]["annotation"]
    annotation = b64encode(packet).decode() if isinstance(sent, str) else list(packet)
    request = {**request, "keyunwrapparams": {**request["keyunwrapparams"], "annotation": annotation}}
    answered = execute("run", "--provider", NAME, "--source", source, request=json.dumps(request).encode())
    assert (answered.returncode, answered.stderr) == (0, b"")
    assert result_of(answered.stdout) == options


def as_sent(spec: str, parameters: dict[str, Any]) -> list[Any]:
    """Write a parameter in the form in which this client sends it."""
    integers = any(isinstance(item, list) for items in parameters.values() for item in items or ())
    return [list(b64decode(spec))] if integers else [spec]


def test_a_server_reads_no_keypath_unless_it_is_told_where(tmp_path: Path, keypath: Path, source: str) -> None:
    wrap = request_of("keywrap", OPTIONS, {NAME: [f"keyid={KID}::keypath={keypath}"]})
    serve = ("--provider", NAME, "--source", source, "--listen", "127.0.0.1:0")
    with Server(tmp_path, *serve) as server, grpc.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.RpcError, match="this server reads no files: its option keys allows them"):
            ask(channel, "WrapKey", wrap)
        packet = agent().wrap(OPTIONS, [f"keyid={KID}::keypath={keypath}"])
        assert result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", packet))) == OPTIONS
        assert [(line["operation"], line["key"], line["outcome"]) for line in server.audit] == [
            ("wrap", KID, "failed"),
            ("unwrap", KID, "ok"),
        ]
    with Server(tmp_path, *serve, "--keys", tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        assert opened(json.loads(result_of(ask(channel, "WrapKey", wrap))), KEY) == OPTIONS


@pytest.mark.parametrize("form", ["cmd", "grpc"])
def test_skopeo_encrypts_and_decrypts(layout: Layout, keypath: Path, source: str, tmp_path: Path, form: str) -> None:
    options = ("--provider", NAME, "--source", source, "--keys", str(tmp_path))
    encrypted_copy, decrypted_copy = Layout(tmp_path / "encrypted"), Layout(tmp_path / "decrypted")
    with ExitStack() as stack:
        entry: dict[str, Any] = {"cmd": {"path": str(write_command(tmp_path / "command", *options))}}
        if form == "grpc":
            entry = {"grpc": stack.enter_context(Server(tmp_path, *options, "--listen", "127.0.0.1:0")).target}
        environment = configure(tmp_path / "keyproviders.json", {NAME: entry})
        copy = ("--insecure-policy", "copy", "--remove-signatures")
        recipient = f"provider:{NAME}:keyid={KID}::keypath={keypath}::algorithm=A256GCM"
        done = run_skopeo(
            *copy, "--encryption-key", recipient, oci(layout), oci(encrypted_copy, "x"), environment=environment
        )
        assert done.returncode == 0, done.stderr
        assert [packet["kid"] for packet in packets_of(encrypted_copy)] == [KID] * 3
        assert json.loads(opened(packets_of(encrypted_copy)[0], KEY))["digest"] == layout.layers[0]["digest"]
        done = run_skopeo(
            *copy,
            "--decryption-key",
            f"provider:{NAME}",
            oci(encrypted_copy, "x"),
            oci(decrypted_copy, "x"),
            environment=environment,
        )
        assert done.returncode == 0, done.stderr
    assert [each["digest"] for each in decrypted_copy.layers] == [each["digest"] for each in layout.layers]


# -- image encrypt


def test_image_encrypt_needs_no_configuration(layout: Layout, keypath: Path, source: str, tmp_path: Path) -> None:
    target = Layout(tmp_path / "encrypted")
    recipient = f"provider:{NAME}:keyid={KID}::keypath={keypath}::algorithm=A256CTR"
    done("encrypt", "--recipient", recipient, oci(layout), oci(target), OCICRYPT_KEYPROVIDER_CONFIG="/missing")
    for packet, plain in zip(packets_of(target), layout.layers, strict=True):
        assert (packet["kid"], packet["wrap_type"]) == (KID, "A256CTR")
        assert json.loads(opened(packet, KEY))["digest"] == plain["digest"]
    environment = configure(
        tmp_path / "config.json", {NAME: {"native": NAME, "source": [source], "allow-a256ctr": True}}
    )
    done("decrypt", "--key", f"provider:{NAME}", oci(target), oci(Layout(tmp_path / "plain2")), **environment)
    assert [each["digest"] for each in Layout(tmp_path / "plain2").layers] == [each["digest"] for each in layout.layers]


def test_a_configuration_is_used_where_there_is_one(layout: Layout, keypath: Path, tmp_path: Path) -> None:
    recipient = ("--recipient", f"provider:{NAME}:keyid={KID}::keypath={keypath}")
    environment = configure(tmp_path / "config.json", {NAME: {"native": NAME, "allow-key": ["kbs:///other/*"]}})
    ended = image("encrypt", *recipient, oci(layout), oci(Layout(tmp_path / "encrypted")), **environment)
    assert (ended.status, "does not match any allow-key" in ended.errors) == (6, True)
    named = ("--keyprovider-config", "/missing.json")
    ended = image("encrypt", *recipient, *named, oci(layout), oci(Layout(tmp_path / "encrypted")))
    assert (ended.status, "there is no file '/missing.json'" in ended.errors) == (2, True)
    other = configure(tmp_path / "other.json", {"other": {"grpc": "127.0.0.1:1"}})
    done("encrypt", *recipient, oci(layout), oci(Layout(tmp_path / "encrypted")), **other)


@pytest.mark.parametrize("spec", ["", ":", f":keyid={KID}", f":keyid={KID}::keypath=/missing", ":keyid=x::keypath={}"])
def test_nothing_is_written_when_the_key_would_be_lost(
    layout: Layout, keypath: Path, tmp_path: Path, spec: str
) -> None:
    target = tmp_path / "encrypted"
    ended = image("encrypt", "--recipient", f"provider:{NAME}{spec.format(keypath)}", oci(layout), f"oci:{target}")
    assert ended.status == 6
    assert ended.errors.startswith("ctd-decoder: error: the keyprovider 'attestation-agent'")
    assert not list(target.glob("blobs/*/*"))


def test_layers_share_the_key_that_is_made(layout: Layout, tmp_path: Path) -> None:
    target, path = Layout(tmp_path / "encrypted"), tmp_path / "new"
    done(
        "encrypt", "--recipient", f"provider:{NAME}:keyid={KID}::keypath={path}::create=true", oci(layout), oci(target)
    )
    key = path.read_bytes()
    assert [json.loads(opened(packet, key))["digest"] for packet in packets_of(target)] == [
        each["digest"] for each in layout.layers
    ]

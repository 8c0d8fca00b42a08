"""The provider attestation-agent: key specs, keys that are made, and every way to it, with the installed program."""

from __future__ import annotations

import json
import os
import stat
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from decoder.errors import UsageError
from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support import independent
from tests.support.image import done, image, oci
from tests.support.images import Layout
from tests.support.layers import Layer, encrypted, private_options
from tests.support.layouts import add_image, publish, tar
from tests.support.processes import ROOT, Result, payload_bytes, run_decoder
from tests.support.serving import Server, ask, configure, execute, openssl, request_of, result_of, write_command
from tests.support.skopeo import run_skopeo
from tests.support.vectors import COCO_PACKETS

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

NAME = "attestation-agent"
ANNOTATION = f"org.opencontainers.image.enc.keys.provider.{NAME}"
KID = "kbs:///default/image_key/nginx"
KEY = bytes(range(32))
OPTIONS = private_options()
PLAINTEXT = bytes(range(256)) * 100
REQUESTS = json.loads((ROOT / "tests/support/requests.json").read_bytes())
NOBODY_LISTENS = "https://127.0.0.1:1"


@pytest.fixture
def keypath(tmp_path: Path) -> Path:
    path = tmp_path / "image_key"
    path.write_bytes(KEY)
    return path


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "resources.json"
    resources = {"default/image_key/nginx": b64encode(KEY).decode()}
    path.write_text(json.dumps({**resources, "a/b/c": b64encode(KEY).decode()}))
    return f"offline:{path}"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    plain = Layout(tmp_path / "plain")
    return publish(plain, add_image(plain, "amd64", [tar("base"), tar("middle"), tar("top")]))


def agent(**options: Any) -> Provider:
    return create(NAME, {name.replace("_", "-"): value for name, value in options.items()})


def wrapped(spec: str, **options: Any) -> dict[str, str]:
    members: dict[str, str] = json.loads(agent(**options).wrap(OPTIONS, [spec]))
    return members


def opened(packet: dict[str, str], key: bytes) -> bytes:
    iv, data = b64decode(packet["iv"], validate=True), b64decode(packet["wrapped_data"], validate=True)
    return independent.gcm_open(key, iv, data) if packet["wrap_type"] == "A256GCM" else independent.ctr(key, iv, data)


def packets_of(target: Layout) -> list[dict[str, str]]:
    return [json.loads(b64decode(each["annotations"][ANNOTATION])) for each in target.layers]


def layer_of(packet: bytes) -> Layer:
    return encrypted(PLAINTEXT, {f"provider.{NAME}": [packet]})


def decrypt(directory: Path, layer: Layer, entry: dict[str, Any], parameters: Any = None) -> Result:
    environment = configure(directory / "keyproviders.json", {NAME: entry})
    return run_decoder(payload_bytes(layer.descriptor, parameters), layer.ciphertext, environment=environment)


# -- key specs


@pytest.mark.parametrize("algorithm", ["", "A256GCM", "A256CTR"])
@pytest.mark.parametrize("kid", [KID, "/default/image_key/nginx", "kbs://[::1]:8080/default/image_key/nginx"])
def test_wraps_as_the_key_spec_says(keypath: Path, algorithm: str, kid: str) -> None:
    packet = wrapped(f"keyid={kid}::keypath={keypath}" + (f"::algorithm={algorithm}" if algorithm else ""))
    assert (packet["kid"], packet["wrap_type"]) == (KID, algorithm or "A256GCM")
    assert opened(packet, KEY) == OPTIONS


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
def test_the_sample(algorithm: str) -> None:
    packet = wrapped(f"sample=true::algorithm={algorithm}")
    assert packet["kid"] == "kbs:///default/test-key/1"
    assert not any(b64decode(packet["iv"]))
    assert opened(packet, b64decode("2Zt3BbC6ehaClbOjNnJwsN2bNxv1FMqLm6fwozcR2uo=")) == OPTIONS


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "a new key would be lost: give keypath=FILE"),
        ("Enabled", "a new key would be lost"),
        ("sample=false", "a new key would be lost"),
        (f"keyid={KID}", "a new key would be lost"),
        ("keyid=kbs:///a/b", "'kbs:///a/b' is not a key id of the form kbs:///repository/type/tag"),
        ("keyid=kbs:///a/../c::keypath={}", "is not a key id of the form"),
        (f"keyid={KID}::keypath=/missing/key", "the keypath '/missing/key': No such file or directory"),
        (f"keyid={KID}::keypath=/missing/key::create=true", "the keypath '/missing/key' cannot be made: No such file"),
        (f"keyid={KID}::keypath=/", "the keypath '/': it is not a regular file"),
        (f"keyid={KID}::keypath=", "the key spec has keypath without a value"),
        ("keypath={}", "the key spec has keypath without keyid"),
        (f"keyid={KID}::keyid={KID}", "the key spec has keyid twice"),
        (
            f"keyid={KID}::keypath={{}}::algorithm=A128GCM",
            "the key spec's algorithm is 'A128GCM', not A256GCM or A256CTR",
        ),
        (f"keyid={KID}::keypath={{}}::algorithm=a256gcm", "the key spec's algorithm is 'a256gcm'"),
        (f"keyid={KID}::keypath={{}}::create=yes", "the key spec's create is 'yes', not true or false"),
        (f"keyid={KID}::create=true", "the key spec has create=true without keypath"),
        (f"sample=true::keyid={KID}", "the key spec has sample=true, which has a key and an id of its own"),
        (f"keyid={KID}::key=secret", "the key spec has 'key' where one of keyid, keypath, algorithm, sample, create"),
        (KID, "the key spec has 'kbs:///default/image_key/nginx' where one of"),
    ],
)
def test_key_specs_that_cannot_be_used(keypath: Path, spec: str, reason: str) -> None:
    with pytest.raises(ProviderError) as caught:
        wrapped(spec.format(keypath))
    assert reason in str(caught.value)


@pytest.mark.parametrize("size", [0, 31, 33, 100 * 1024 * 1024])
def test_key_files_of_other_lengths(keypath: Path, size: int) -> None:
    os.truncate(keypath, size)
    with pytest.raises(ProviderError, match=rf"has {size} bytes, not 32$|it is larger than"):
        wrapped(f"keyid={KID}::keypath={keypath}")


def test_several_key_specs(keypath: Path) -> None:
    spec = f"keyid={KID}::keypath={keypath}"
    assert agent().wrap(OPTIONS, [spec, "Enabled", spec])
    with pytest.raises(ProviderError, match=r"^it was given 2 key specs, and wraps with one key$"):
        agent().wrap(OPTIONS, [spec, f"keyid=kbs:///a/b/c::keypath={keypath}"])


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new"
    spec = f"keyid={KID}::keypath={path}::create=true"
    with ThreadPoolExecutor(8) as threads:
        packets = list(threads.map(lambda _: wrapped(spec), range(32)))
    key = path.read_bytes()
    assert len(set(key)) > 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [opened(packet, key) for packet in packets] == [OPTIONS] * 32
    assert opened(wrapped(spec), key) == OPTIONS
    assert os.listdir(tmp_path) == ["new"]


def test_a_new_key_never_takes_anothers_place(tmp_path: Path) -> None:
    """Whatever the broker has under an id, it would be replaced without a word."""
    auth_key = tmp_path / "admin.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", auth_key)
    auth_key.chmod(0o600)
    with pytest.raises(ProviderError, match=f"^a new key would take the place of .* {KID}: give keypath=FILE"):
        wrapped(f"keyid={KID}", kbs=NOBODY_LISTENS, kbs_auth_key=str(auth_key))
    with pytest.raises(ProviderError, match=r"^the key kbs:///default/image-kek/[0-9a-f-]{36} is not registered at "):
        wrapped("Enabled", kbs=NOBODY_LISTENS, kbs_auth_key=str(auth_key))


def test_the_directory_of_keypaths(tmp_path: Path, keypath: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "inside").write_bytes(KEY)
    (keys / "link").symlink_to(keypath)
    for path in ("inside", keys / "inside"):
        assert opened(wrapped(f"keyid={KID}::keypath={path}", keys=str(keys)), KEY) == OPTIONS
    assert wrapped(f"keyid={KID}::keypath=new::create=true", keys=str(keys))
    assert (keys / "new").exists()
    for path in (keypath, "../image_key", "link", ".", "../new::create=true"):
        with pytest.raises(ProviderError, match="is not below the directory that the option keys names"):
            wrapped(f"keyid={KID}::keypath={path}", keys=str(keys))
    assert not (tmp_path / "new").exists()


# -- unwrapping


@pytest.mark.parametrize("case", COCO_PACKETS["opens"], ids=[case["name"] for case in COCO_PACKETS["opens"]])
def test_every_packet_with_the_installed_program(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "resources.json"
    path.write_text(json.dumps({"default/image_key/nginx": COCO_PACKETS["key"]}))
    layer = layer_of(json.dumps(case["packet"]).encode())
    entry: dict[str, Any] = {"native": NAME, "source": [f"offline:{path}"]}
    if "ctr" in str(case["packet"]["wrap_type"]).lower():
        result = decrypt(tmp_path, layer, entry)
        assert (result.status, result.plaintext) == (6, b"")
        assert "encrypt the image with A256GCM, or set the option allow-a256ctr" in result.errors
        entry["allow-a256ctr"] = True
    assert decrypt(tmp_path, layer, entry) == (0, PLAINTEXT, "")


def test_a_packet_turned_into_ctr_opens_nothing(source: str, keypath: Path, tmp_path: Path) -> None:
    """A256GCM is A256CTR with a tag: without it, who changes the annotation would learn the layer key bit by bit."""
    packet = wrapped(f"keyid={KID}::keypath={keypath}")
    iv, data = b64decode(packet["iv"]), b64decode(packet["wrapped_data"])
    turned = {
        **packet,
        "wrap_type": "A256CTR",
        "iv": b64encode(iv + bytes([0, 0, 0, 2])).decode(),
        "wrapped_data": b64encode(data[:-16]).decode(),
    }
    assert opened(turned, KEY) == OPTIONS
    result = decrypt(tmp_path, layer_of(json.dumps(turned).encode()), {"native": NAME, "source": [source]})
    assert (result.status, result.plaintext) == (6, b"")


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
def test_the_sample_key_opens_nothing_unless_allowed(tmp_path: Path, algorithm: str) -> None:
    layer = layer_of(json.dumps(wrapped(f"sample=true::algorithm={algorithm}")).encode())
    entry: dict[str, Any] = {"native": NAME, "allow-a256ctr": True}
    result = decrypt(tmp_path, layer, entry)
    assert (result.status, result.plaintext) == (6, b"")
    assert "the image was made with the sample key, which everybody knows" in result.errors
    assert decrypt(tmp_path, layer, {**entry, "allow-sample-key": True}) == (0, PLAINTEXT, "")
    for value in ("true", 1, None):
        result = decrypt(tmp_path, layer, {**entry, "allow-sample-key": value})
        assert "the option allow-sample-key of the provider attestation-agent must be true or false" in result.errors


def test_a_key_of_ones_own_may_have_the_id_of_the_sample_key(tmp_path: Path, keypath: Path) -> None:
    (tmp_path / "resources.json").write_text(json.dumps({"default/test-key/1": b64encode(KEY).decode()}))
    layer = layer_of(json.dumps(wrapped(f"keyid=kbs:///default/test-key/1::keypath={keypath}")).encode())
    entry = {"native": NAME, "source": [f"offline:{tmp_path}/resources.json"]}
    assert decrypt(tmp_path, layer, entry) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("case", COCO_PACKETS["fails"], ids=[case["name"] for case in COCO_PACKETS["fails"]])
def test_packets_that_cannot_be_read(source: str, case: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        agent(source=[source]).unwrap(json.dumps(case["packet"]).encode(), [])
    assert str(caught.value).startswith(case["why"])


def test_the_program_says_why_not(tmp_path: Path, keypath: Path) -> None:
    layer = layer_of(json.dumps(wrapped(f"keyid={KID}::keypath={keypath}")).encode())
    (tmp_path / "resources.json").write_text(json.dumps({"default/image_key/nginx": b64encode(bytes(32)).decode()}))
    sources = [f"repository:{tmp_path}", f"offline:{tmp_path}/resources.json", f"kbs:{NOBODY_LISTENS}"]
    result = decrypt(tmp_path, layer, {"native": NAME, "source": sources, "tee": "sample"})
    assert (result.status, result.plaintext) == (6, b"")
    assert result.errors.count("\n") == 2
    for text, reason in zip(sources, ("it has no such resource", "not wrapped with this key", ""), strict=True):
        assert f"source {text}, kid {KID}: " in result.errors
        assert reason in result.errors
    assert "Traceback" not in result.errors


def test_what_unwraps_nothing(tmp_path: Path, keypath: Path) -> None:
    layer = layer_of(json.dumps(wrapped(f"keyid={KID}::keypath={keypath}")).encode())
    for entry, reason in (
        ({"native": NAME}, f"the key {KID} can come from nowhere: no source is configured"),
        ({"native": NAME, "source": ["vault:x"]}, "its configuration: the source 'vault' is not one of repository:DIR"),
        ({"native": NAME, "source": ["repository:/"] * 17}, "its configuration: there are more than 16 sources"),
        ({"native": NAME, "sources": []}, "its configuration: the provider attestation-agent has no option 'sources'"),
        ({"native": NAME, "kbs-claim": ["a=b"]}, "its configuration: the options kbs-auth-key, kbs-admin-token-file"),
        (
            {"native": NAME, "source": [f"repository:{tmp_path}"], "allow-key": ["kbs:///guest/*"]},
            f"the key '{KID}' does not match any allow-key",
        ),
    ):
        result = decrypt(tmp_path, layer, entry)
        assert (result.status, result.plaintext) == (6, b"")
        assert reason in result.errors


def test_parameters_of_clients(keypath: Path, source: str) -> None:
    packet = agent().wrap(OPTIONS, [f"keyid={KID}::keypath={keypath}"])
    provider = agent(source=[source])
    for parameters in (
        [],
        ["Enabled"],
        ["cc_kbc::https://broker.example"],
        [f"keyid={KID}"],
        ["keyid=kbs:///a/b/c", f"keyid={KID}"],
    ):
        assert provider.unwrap(packet, parameters) == OPTIONS
    with pytest.raises(ProviderError, match=rf"^the key {KID} is not one that was asked for$"):
        provider.unwrap(packet, ["keyid=kbs:///a/b/c"])


def test_options_that_are_wrong() -> None:
    with pytest.raises(UsageError, match="is not one of repository:DIR"):
        agent(source="nothing")


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

"""Rules that keep a host from decrypting, whichever key would open the layer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from decoder import keywrap, limits
from decoder.errors import DeniedError, LayerError
from decoder.keywrap import deny, jwe
from tests.support.image.command import Ended, done, image, oci
from tests.support.image.images import Layout
from tests.support.image.layouts import add_image, publish, tar
from tests.support.keywrap.layers import encrypted, pem, private_options, public_pem, rsa_key
from tests.support.program.processes import ROOT, Result, payload_bytes, run_decoder
from tests.support.provider.client_parts import turning_command

PLAINTEXT = b"of the guest alone" * 100
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+encrypted"
AGENT, OTHER = "provider.attestation-agent", "provider.kmscrypt"


def packet(**members: Any) -> bytes:
    return json.dumps({"kid": "kbs:///guest/key/1", "wrapped_data": "", **members}).encode()


def annotated(wrapped: dict[str, list[bytes]]) -> dict[str, str]:
    found: dict[str, str] = encrypted(b"", wrapped).descriptor["annotations"]
    return found


LAYER = annotated({"jwe": [b"{}"], AGENT: [b"no packet", packet()], OTHER: [b'{"key_url":"local://blue"}']})


def write(directory: Path, text: str | bytes) -> str:
    path = directory / "keyprovider.conf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rules(directory: Path, *texts: object) -> str:
    return write(directory, json.dumps({"key-providers": {}, "deny": list(texts)}))


@pytest.mark.parametrize(
    ("rule", "denied"),
    [
        ("provider.attestation-agent", "recipient 'provider.attestation-agent'"),
        ("provider.*", "recipient 'provider.attestation-agent'"),
        ("provider.kms*", "recipient 'provider.kmscrypt'"),
        ("jwe", "recipient 'jwe'"),
        ("*", "recipient 'jwe'"),
        ("kid:kbs:///guest/*", "kid 'kbs:///guest/key/1'"),
        ("kid:kbs:///guest/key/[0-9]", "kid 'kbs:///guest/key/1'"),
        ("kid:local://*", "kid 'local://blue'"),
        (f"media-type:{MEDIA_TYPE}", f"media-type '{MEDIA_TYPE}'"),
        ("media-type:*tar+encrypted", f"media-type '{MEDIA_TYPE}'"),
    ],
)
def test_rules_that_match(tmp_path: Path, rule: str, denied: str) -> None:
    file = rules(tmp_path, "pgp", rule)
    with pytest.raises(DeniedError) as caught:
        deny.check(file, MEDIA_TYPE, LAYER)
    assert str(caught.value) == (
        f"this host does not decrypt this layer: its {denied} is denied by the rule '{rule}' in '{file}'"
    )
    assert caught.value.status == 4


@pytest.mark.parametrize(
    "rule",
    [
        "pgp",
        "provider.other",
        "provider.",
        "kid:kbs:///guest/other/*",
        "kid:guest",
        "media-type:tar",
        "media-type:*gzip*",
    ],
)
def test_rules_that_do_not(tmp_path: Path, rule: str) -> None:
    deny.check(rules(tmp_path, rule), MEDIA_TYPE, LAYER)


@pytest.mark.parametrize(
    "members",
    [
        {"kid": "kbs://broker:8080/guest/key/1"},
        {"kid": "kbs+resource:///guest/key/1"},
        {"kid": "/guest/key/1"},
        {"kid": "guest/key/1"},
        {"kid": "kbs:///guest/key/1?a=b"},
        {"kid": "kbs:///guest/key/1", "KID": "kbs:///public/key/1"},
        {"KID": "kbs:///guest/key/1", "kid": "kbs:///public/key/1"},
    ],
)
def test_no_other_way_to_write_a_key_id_helps(tmp_path: Path, members: dict[str, str]) -> None:
    found = annotated({AGENT: [packet(**members)]})
    with pytest.raises(DeniedError, match=r"denied by the rule 'kid:kbs:///guest/key/1'"):
        deny.check(rules(tmp_path, "kid:kbs:///guest/key/1"), MEDIA_TYPE, found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '{"deny": ["attestation-agent"]}',
            "'attestation-agent' is not one of a scheme (such as provider.NAME), media-type:",
        ),
        ('{"deny": ["key:x"]}', "'key:x' is not one of"),
        ('{"deny": ["kid:"]}', "'kid:' is not one of"),
        ('{"deny": [""]}', "'' is not one of"),
        ('{"deny": [1]}', "JSON number instead of a string"),
        ('{"deny": "provider.*"}', "JSON string instead of an array"),
        ('{"deny": {}}', "JSON object instead of an array"),
        ('{"deny": ["jwe"]', "not JSON"),
        ('["deny"]', "JSON array instead of an object"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "JSON null instead of an object"),
        ('{"key-providers": 1}', "JSON number instead of an object"),
        (json.dumps({"deny": ["pgp"] * 257}), f"there are more than {limits.DENY_RULES}"),
        ('{"key-providers": {}}'.ljust(limits.KEY_FILE_BYTES + 1), "it is larger than"),
    ],
)
def test_rules_that_cannot_be_read_deny_all(tmp_path: Path, text: str, reason: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(DeniedError) as caught:
        deny.check(file, MEDIA_TYPE, LAYER)
    start = f"no layer is opened while the keyprovider configuration '{file}', which may hold deny rules, "
    assert str(caught.value).startswith(f"{start}cannot be read: {reason}")


@pytest.mark.parametrize(
    "text",
    ["{}", '{"key-providers": null}', '{"deny": null}', '{"deny": []}', '{"key-providers": {"deny": {}}}'],
)
def test_where_there_are_no_rules(tmp_path: Path, text: str) -> None:
    deny.check(write(tmp_path, text), MEDIA_TYPE, LAYER)


def test_no_way_to_write_the_name_hides_rules(tmp_path: Path) -> None:
    for name in ("Deny", "DENY", r"\u0064eny"):
        with pytest.raises(DeniedError):
            deny.check(write(tmp_path, f'{{"{name}": ["jwe"]}}'), MEDIA_TYPE, LAYER)


def test_too_many_wrapped_keys(tmp_path: Path) -> None:
    found = annotated({"jwe": [b"{}"] * (limits.WRAPPED_KEYS + 1)})
    with pytest.raises(LayerError):
        deny.check(rules(tmp_path, "pgp"), MEDIA_TYPE, found)


# -- the decoder


def decode(directory: Path, *texts: str) -> tuple[Result, int]:
    """Decrypt a layer that both a key and a command open, and count what the command was asked."""
    command = turning_command(directory)
    entries = {"key-providers": {"kmscrypt": command.entry}, "deny": list(texts)}
    wrapped = {"jwe": [jwe.wrap(private_options(), [public_pem(rsa_key())])], AGENT: [packet()], OTHER: [b"x"]}
    layer = encrypted(PLAINTEXT, wrapped)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})
    environment = {"OCICRYPT_KEYPROVIDER_CONFIG": write(directory, json.dumps(entries))}
    result = run_decoder(payload, layer.ciphertext, environment=environment)
    return result, len(command.requests()) if command.record.exists() else 0


@pytest.mark.parametrize("rule", ["provider.attestation-agent", "kid:kbs:///guest/*", "media-type:*gzip+encrypted"])
def test_a_denied_layer_is_not_opened_with_any_key(tmp_path: Path, rule: str) -> None:
    result, asked = decode(tmp_path, rule)
    assert (result.status, result.plaintext, asked) == (4, b"", 0)
    assert result.errors.startswith("ctd-decoder: error: this host does not decrypt this layer: ")
    assert f"is denied by the rule '{rule}' in " in result.errors


def test_another_layer_is(tmp_path: Path) -> None:
    assert decode(tmp_path, "provider.other", "kid:kbs:///other/*")[0] == (0, PLAINTEXT, "")


def decode_with(*options: str, **environment: str) -> Result:
    """Decrypt a layer that a key of the payload opens."""
    layer = encrypted(PLAINTEXT)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})
    return run_decoder(payload, layer.ciphertext, *options, environment=environment)


def test_an_absent_configuration_denies_only_what_it_must(tmp_path: Path) -> None:
    """containerd's default configuration names a file in the environment, which mostly is not there."""
    missing = str(tmp_path / "keyprovider.conf")
    assert decode_with(OCICRYPT_KEYPROVIDER_CONFIG=missing) == (0, PLAINTEXT, "")
    result = decode_with("--keyprovider-config", missing)
    assert (result.status, result.plaintext) == (4, b"")
    assert "cannot be read: No such file or directory" in result.errors
    (tmp_path / keywrap.REQUIRE_CONFIG).touch()
    assert decode_with(OCICRYPT_KEYPROVIDER_CONFIG=missing) == result
    Path(missing).write_text("{}")
    assert decode_with(OCICRYPT_KEYPROVIDER_CONFIG=missing) == (0, PLAINTEXT, "")


def test_what_is_not_absent_but_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "keyprovider.conf"
    (tmp_path / "folder").mkdir()
    (tmp_path / "cut").write_text('{"key-providers": {')
    for target, reason in (
        ("gone", "No such file or directory"),
        ("folder", "it is not a regular file"),
        ("cut", "not JSON"),
    ):
        file.symlink_to(tmp_path / target)
        result = decode_with(OCICRYPT_KEYPROVIDER_CONFIG=str(file))
        assert (result.status, result.plaintext) == (4, b"")
        assert reason in result.errors
        file.unlink()
    result = decode_with(OCICRYPT_KEYPROVIDER_CONFIG=str(tmp_path / ("x" * 256)))
    assert (result.status, result.plaintext) == (4, b"")
    assert "File name too long" in result.errors


def test_the_decoder_does_not_load_the_rules_where_there_is_no_file(tmp_path: Path) -> None:
    """Start-up is a feature: the import is all that there is to save."""
    program = tmp_path / "decoder"
    paths = [str(ROOT), *sys.path]
    imports = f"import sys; sys.path[:0] = {paths!r}; import decoder.__main__ as m\n"
    report = (
        "import os; end = os._exit\ndef leave(status):\n    os.write(2, ' '.join(sys.modules).encode()); end(status)\n"
    )
    program.write_text(f"#!{sys.executable} -S\n{imports}{report}os._exit = leave\nm.main()\n")
    program.chmod(0o755)
    layer = encrypted(PLAINTEXT)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})
    loaded = {}
    for name, file in (("none", str(tmp_path / "missing")), ("some", rules(tmp_path, "pgp"))):
        environment = {"OCICRYPT_KEYPROVIDER_CONFIG": file}
        result = run_decoder(payload, layer.ciphertext, program=str(program), environment=environment)
        assert (result.status, result.plaintext) == (0, PLAINTEXT)
        loaded[name] = set(result.errors.split())
    assert loaded["some"] - loaded["none"] >= {"decoder.keywrap.deny", "fnmatch"}
    assert not any(name.startswith("decoder.provider") for name in loaded["some"])


# -- images


@pytest.fixture
def denied(tmp_path: Path) -> tuple[Layout, Path, dict[str, str]]:
    """An image that a key opens, the key, and the environment that denies it."""
    plain, target, key = Layout(tmp_path / "plain"), Layout(tmp_path / "encrypted"), tmp_path / "key.pem"
    publish(plain, add_image(plain, "amd64", [tar("a"), tar("b")]))
    key.write_bytes(pem(rsa_key()))
    (tmp_path / "key.pub").write_bytes(public_pem(rsa_key()))
    (tmp_path / "image_key").write_bytes(bytes(32))
    agent = f"provider:attestation-agent:keyid=kbs:///guest/key/1::keypath={tmp_path}/image_key"
    done("encrypt", "--recipient", f"jwe:{tmp_path}/key.pub", "--recipient", agent, oci(plain), oci(target))
    return target, key, {"OCICRYPT_KEYPROVIDER_CONFIG": rules(tmp_path, "kid:kbs:///guest/*")}


def test_image_verbs(denied: tuple[Layout, Path, dict[str, str]], tmp_path: Path) -> None:
    layout, key, environment = denied
    opening = ("--platform", "linux/amd64", "--key", key)
    more = ("--recipient", f"jwe:{tmp_path}/key.pub")

    def run(*arguments: str | Path, **variables: str) -> Ended:
        return image(*arguments, **{"OCICRYPT_KEYPROVIDER_CONFIG": "", **variables})

    for verb, arguments in (
        ("check", (*opening, oci(layout))),
        ("decrypt", (*opening, oci(layout), f"oci:{tmp_path}/out")),
        ("encrypt", (*more, *opening, oci(layout), f"oci:{tmp_path}/out")),
    ):
        ended = run(verb, *arguments, **environment)
        assert ended.status == 4
        assert "is denied by the rule 'kid:kbs:///guest/*' in " in ended.errors
        named = run(verb, "--keyprovider-config", environment["OCICRYPT_KEYPROVIDER_CONFIG"], *arguments)
        assert named.status == 4
        assert not (tmp_path / "out/index.json").exists()
    assert run("check", *opening, oci(layout)).status == 0

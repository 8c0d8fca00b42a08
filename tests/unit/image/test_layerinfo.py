"""`layerinfo` names everybody who can open a layer; `check` says no unless every layer of the platform opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from decoder.formats import wire
from decoder.layer import annotations as layer
from tests.support.image import images, layouts
from tests.support.image.command import done, image, oci
from tests.support.image.images import Layout
from tests.support.image.layerinfos import names_of

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair
    from tests.support.keys.parties import Party


def test_whether_keys_open_a_layer(
    gzipped: Layout, target: Layout, parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(gzipped), oci(target), "--recipient", parties["jwe"].recipient, "--layer", "1..")
    for options, opens in ((parties["jwe"].ours, True), (["--key", str(keys["rsa4096"].private)], False)):
        layers = done("layerinfo", oci(target), "--json", *options).value["layers"]
        assert [each["opens"] for each in layers] == [None, opens, opens]
        assert [bool(each["reason"]) for each in layers] == [False, not opens, not opens]
        words = [line.split()[-1] for line in done("layerinfo", oci(target), *options).output.splitlines()[2:]]
        assert words == ["yes" if opens else "no"] * 2
    assert {each["opens"] for each in done("layerinfo", oci(target), "--json").value["layers"]} == {None}


def test_names_that_a_registry_made_up(gzipped: Layout, target: Layout) -> None:
    wrapped = {
        "jwe": [
            b"not a jwe",
            json.dumps({"recipients": [{"header": {"alg": "x\x1b[31m", "kid": "k" * 999}}]}).encode(),
        ],
        "pgp": [b""],
        "pkcs7": [b"\x30"],
        "pkcs11": [b"{}", b"[" * 99999],
        "provider.x": [b"\xff", b'{"kid":"kbs:///a/b/c"}'],
    }
    annotations = layer.build_annotations(bytes(32), wrapped)
    annotations[layer.KEYS_PREFIX + "jwe"] += ",@@@"
    value = gzipped.manifest
    value["layers"][0] |= {"mediaType": images.GZIP + layer.ENCRYPTED, "annotations": annotations}
    copy = Layout(target.directory)
    for descriptor in (*value["layers"], value["config"]):
        copy.add(gzipped.read(descriptor), "")
    layouts.publish(copy, copy.add(layouts.to_json(value), layouts.MANIFEST))
    names = names_of(oci(copy))
    assert [name for name in names if "malformed" in name and not name.startswith("jwe")]
    assert "\x1b" not in "".join(names)
    assert "provider.x: kbs:///a/b/c" in names
    assert max(map(len, names)) < 1000


def test_check_covers_every_layer_of_the_platform(
    tmp_path: Path, target: Layout, parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    other = ["--recipient", f"jwe:{keys['p256'].public}"]
    own = ["--recipient", parties["jwe"].recipient]
    own_key, other_key = parties["jwe"].ours, ["--key", str(keys["p256"].private)]
    done("encrypt", oci(source), oci(target), *own, "--layer", "0", "--platform", "linux/amd64")
    done("encrypt", oci(target), oci(target), *other, "--layer", "-1")
    amd64 = image("check", oci(target), *own_key, "--platform", "linux/amd64")
    assert (amd64.status, amd64.output) == (4, "")
    assert amd64.errors.count("no key opens this layer") == 1
    assert "layer 2 (linux/amd64)" in amd64.errors
    assert done("check", oci(target), *own_key, *other_key, "--platform", "linux/amd64").output
    assert image("check", oci(target), *own_key, "--platform", "linux/arm64").status == 4
    assert done("check", oci(target), *other_key, "--platform", "linux/arm64", "--json").value["ok"]
    assert image("check", oci(target), *own_key, "--platform", "linux/s390x").status == 4
    assert image("check", oci(target)).status == 2
    assert image("check", oci(target), *own_key).status == 4
    done("check", oci(target), *own_key, *other_key)


def test_check_refuses_what_it_does_not_know(
    gzipped: Layout, target: Layout, parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(gzipped), oci(target), "--recipient", parties["jwe"].recipient)
    good = target.manifest
    options = [*parties["jwe"].ours, "--key", str(keys["p256"].private)]
    public = wire.encode_base64(b'{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"AAAA","cipheroptions":{}}')
    changes: tuple[tuple[dict[str, object], int], ...] = (
        ({"mediaType": "application/vnd.oci.image.layer.v2.tar+encrypted"}, 4),
        ({"annotations": {}}, 5),
        ({"annotations": {**good["layers"][2]["annotations"], layer.PUBLIC_OPTIONS: public}}, 5),
    )
    for change, status in changes:
        value = {**good, "layers": [*good["layers"][:2], {**good["layers"][2], **change}]}
        layouts.publish(target, target.add(layouts.to_json(value), layouts.MANIFEST))
        ended = image("check", oci(target), *options)
        assert ended.status == status
        assert ended.errors.count("layer 2 (") == 1

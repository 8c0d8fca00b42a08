"""`image check` as a gate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.image import layouts
from tests.support.image.command import done, image, oci

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import KeyPair


@pytest.fixture
def partly(small: Layout, target: Layout, recipient: list[str]) -> Layout:
    """An image whose top layer alone is encrypted."""
    done("encrypt", oci(small), oci(target), *recipient, "--layer", "-1")
    return target


@pytest.mark.parametrize(
    ("required", "status"), [("all", 4), ("any", 0), ("1", 0), ("-1", 0), ("0", 4), ("0,1", 4), ("0-1", 4)]
)
@pytest.mark.parametrize("with_key", [False, True])
def test_what_must_be_encrypted(required: str, status: int, with_key: bool, partly: Layout, key: list[str]) -> None:
    ended = image("check", "--require-encrypted", required, oci(partly), *(key if with_key else []))
    assert ended.status == status, ended.errors
    assert ("layer 0 (linux/amd64) is not encrypted" in ended.errors) == bool(status)


def test_a_plain_image_is_no_success_when_encryption_is_required(small: Layout, key: list[str]) -> None:
    for required in ("all", "any"):
        assert image("check", "--require-encrypted", required, oci(small), *key).status == 4
    done("check", oci(small), *key)
    assert image("check", "--require-encrypted", "some", oci(small)).status == 2
    assert image("check", "--require-encrypted", "7", oci(small)).status == 2


def test_json_also_on_failure(partly: Layout) -> None:
    ended = image("check", "--require-encrypted", "all", oci(partly), "--json")
    assert ended.status == 4
    value = ended.value
    assert (value["schemaVersion"], value["ok"], value["status"]) == (1, False, 4)
    assert [each["encrypted"] for each in value["layers"]] == [False, True]
    assert value["problems"] == ["layer 0 (linux/amd64) is not encrypted (--require-encrypted all)"]


@pytest.mark.parametrize("reason", ["absent", "no such layer", "damaged"])
def test_json_if_the_check_could_not_be_made(reason: str, partly: Layout) -> None:
    required, place = "all", oci(partly)
    if reason == "absent":
        place = f"oci:{partly.directory}.absent"
    elif reason == "no such layer":
        required = "7"
    else:
        (partly.directory / "index.json").write_text("{")
    ended = image("check", "--require-encrypted", required, place, "--json")
    value = ended.value
    assert ended.status == (2 if reason == "no such layer" else 7)
    assert (value["schemaVersion"], value["ok"], value["status"]) == (1, False, ended.status)
    assert (value["layers"], len(value["problems"])) == ([], 1)


def test_an_hmac_that_nothing_could_check_does_not_pass(partly: Layout, small: Layout, key: list[str]) -> None:
    ended = image("check", "--verify", oci(partly), "--json")
    assert ended.status == 4
    assert [each["verified"] for each in ended.value["layers"]] == [True, False]
    assert ended.value["problems"] == ["layer 1 (linux/amd64): its HMAC was not checked: give a --key that opens it"]
    done("check", "--verify", oci(partly), *key)
    done("check", "--verify", oci(small))


def test_all_platforms_unless_chosen(tmp_path: Path, target: Layout, recipient: list[str], key: list[str]) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    done("encrypt", oci(source), oci(target), *recipient, "--platform", "linux/amd64")
    required = ["check", "--require-encrypted", "all", oci(target), *key]
    assert image(*required).status == 4
    done(*required, "--platform", "linux/amd64")
    done("encrypt", oci(target), oci(target), *recipient, "--platform", "linux/arm64")
    assert image(*required, "--platform", "linux/riscv64").status == 4
    done(*required)  # attestations are not for running


def test_verify_reads_every_layer(small: Layout, target: Layout, recipient: list[str], key: list[str]) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    done("check", "--verify", oci(target), *key)
    path = target.directory / "blobs" / target.layers[1]["digest"].replace(":", "/")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    done("check", oci(target), *key)
    ended = image("check", "--verify", oci(target), *key)
    assert (ended.status, "layer 1 (linux/amd64)" in ended.errors) == (5, True), ended.errors
    assert image("check", "--verify", oci(target)).status == 5


def test_a_wrong_hmac_is_found(small: Layout, target: Layout, recipient: list[str], key: list[str]) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    value = target.manifest
    name = "org.opencontainers.image.enc.pubopts"
    first, second = (each["annotations"] for each in value["layers"])
    first[name], second[name] = second[name], first[name]
    layouts.publish(target, target.add(layouts.to_json(value), layouts.MANIFEST))
    done("check", oci(target), *key)
    assert image("check", "--verify", oci(target), *key).status == 5


def test_a_provider_that_hangs_costs_its_time_once(small: Layout, target: Layout, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = tmp_path / "provider"
    answer = '{"keywrapresults": {"annotation": "%s"}}'  # another one for each layer
    program.write_text(
        f"#!/bin/sh\necho asked >> {log}\nif grep -Eq '.op. *: *.keyunwrap'; then sleep 60; else\n"
        f"printf '{answer}' $(head -c 12 /dev/urandom | base64)\nfi\n"
    )
    program.chmod(0o755)
    config = tmp_path / "providers.json"
    config.write_text(json.dumps({"key-providers": {"slow": {"cmd": {"path": str(program)}, "timeout": 3}}}))
    options = ["--keyprovider-config", str(config)]
    done("encrypt", oci(small), oci(target), "--recipient", "provider:slow", *options)
    log.unlink()
    ended = image("check", oci(target), "--key", "provider:slow", *options, "--json")
    assert ended.status == 6, ended.errors
    assert log.read_text().count("asked") == 1
    assert [each["opens"] for each in ended.value["layers"]] == [False, False]


def test_the_wrong_key_is_status_4(partly: Layout, keys: dict[str, KeyPair]) -> None:
    ended = image("check", oci(partly), "--key", str(keys["p384"].private))
    assert (ended.status, "layer 1 (linux/amd64): no key opens this layer" in ended.errors) == (4, True)

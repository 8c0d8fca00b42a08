"""Status 0 of `image encrypt` and `decrypt` means that everything which was selected was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from decoder.layer import annotations as layer
from tests.support.image import images, layouts
from tests.support.image.command import done, files_below, image, oci
from tests.support.image.images import Layout

if TYPE_CHECKING:
    from pathlib import Path

HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
WASM = "application/wasm"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ORAS_FILE = "application/vnd.acme.rocket.docs.layer.v1+tar"


def assert_refused(source: Layout, target: Layout, status: int, reason: str, *options: str) -> None:
    ended = image("encrypt", oci(source), oci(target), *options)
    assert (ended.status, ended.output) == (status, ""), ended.errors
    assert reason in ended.errors
    left = files_below(target.directory) if target.directory.exists() else {}
    assert set(left) <= {"oci-layout"}, left


@pytest.mark.parametrize(
    ("config", "media_type"), [(HELM_CONFIG, HELM_CHART), ("application/vnd.oci.empty.v1+json", ORAS_FILE)]
)
def test_artifacts_without_an_encrypted_form_are_refused(
    config: str, media_type: str, tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    layouts.publish(source, layouts.add_artifact(source, config, (b"the content", media_type)))
    assert_refused(source, target, 2, f"layer 0 is {media_type}", *recipient)
    for allowed in (media_type, "all"):
        ended = done("encrypt", oci(source), oci(target), *recipient, "--allow-plain", allowed)
        assert f"layer 0 stays as it is: {media_type} has no encrypted form" in ended.errors
    assert_refused(source, Layout(tmp_path / "other"), 2, media_type, *recipient, "--allow-plain", WASM)


def test_one_layer_without_an_encrypted_form_is_enough(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    source = Layout(tmp_path / "source")
    value = source.read_json(layouts.add_image(source, "amd64", [layouts.tar("one")]))
    value["layers"].append(source.add(b"wasm", WASM))
    layouts.publish(source, source.add(layouts.to_json(value), layouts.MANIFEST))
    assert_refused(source, target, 2, f"layer 1 (linux/amd64) is {WASM}", *recipient)
    assert_refused(source, target, 2, f"layer 1 (linux/amd64) is {WASM}", *recipient, "--layer", "1")
    done("encrypt", oci(source), oci(target), *recipient, "--layer", "0")


def test_an_artifact_that_is_only_a_configuration_is_refused(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    layouts.publish(source, layouts.add_artifact(source, "application/vnd.example.policy+json"))
    assert_refused(source, target, 2, "has no layers, is application/vnd.example.policy+json", *recipient)


def test_an_artifact_in_an_index_is_refused_with_the_image(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    both = [
        layouts.add_image(source, "amd64", [layouts.tar("one")]),
        layouts.add_artifact(source, HELM_CONFIG, (b"chart", HELM_CHART)),
    ]
    layouts.publish(source, layouts.add_index(source, *both))
    assert_refused(source, target, 2, HELM_CHART, *recipient)


def test_an_entry_that_is_no_manifest_is_refused(
    tmp_path: Path, target: Layout, recipient: list[str], key: list[str]
) -> None:
    """An index may name any blob; even a layer has no encrypted form there."""
    source = Layout(tmp_path / "source")
    loose = source.add(images.packed(layouts.tar("loose"), images.GZIP).blob, images.GZIP)
    inner = layouts.add_index(source, layouts.add_image(source, "amd64", [layouts.tar("one")]), loose)
    layouts.publish(source, layouts.add_index(source, inner))
    assert_refused(source, target, 2, f"{loose['digest']}, an entry of the index, is {images.GZIP}", *recipient)
    ended = done("encrypt", oci(source), oci(target), *recipient, "--allow-plain", images.GZIP)
    assert f"{loose['digest']}, an entry of the index, stays as it is" in ended.errors
    done("check", oci(target), *key)
    gate = image("check", "--require-encrypted", "all", oci(target), *key)
    assert (gate.status, loose["digest"] in gate.errors) == (4, True)
    done("encrypt", oci(source), oci(Layout(tmp_path / "chosen")), *recipient, "--platform", "linux/amd64")


def test_an_artifact_for_a_platform_is_chosen_with_it(
    tmp_path: Path, target: Layout, recipient: list[str], key: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    one = layouts.add_image(source, "amd64", [layouts.tar("one")])
    module = {**layouts.add_artifact(source, "application/vnd.wasm.config.v0+json", (b"wasm", WASM))}
    layouts.publish(source, layouts.add_index(source, one, {**module, "platform": one["platform"]}))
    chosen = ["--platform", "linux/amd64"]
    assert_refused(source, target, 2, f"layer 0 (linux/amd64) is {WASM}", *recipient, *chosen)
    done("encrypt", oci(source), oci(target), *recipient, *chosen, "--allow-plain", WASM)
    assert image("check", "--require-encrypted", "all", oci(target), *key, *chosen).status == 4


def test_a_chart_that_says_it_is_an_attestation_is_a_chart(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    one = layouts.add_image(source, "amd64", [layouts.tar("one")])
    said = {"vnd.docker.reference.type": "attestation-manifest", layouts.ATTESTED: one["digest"]}
    for layers in ([(b"chart", HELM_CHART)], []):
        disguised = {**layouts.add_artifact(source, HELM_CONFIG, *layers), "annotations": said}
        layouts.publish(source, layouts.add_index(source, one, disguised))
        assert_refused(source, target, 2, HELM_CHART if layers else HELM_CONFIG, *recipient)
    document = {**layouts.add_artifact(source, HELM_CONFIG, (b"{}", "application/spdx+json")), "annotations": said}
    layouts.publish(source, layouts.add_index(source, one, document))
    assert "warning: 1 attestations" in done("encrypt", oci(source), oci(target), *recipient).errors


def test_content_that_another_layer_keeps_readable_is_named(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    amd64 = layouts.add_image(source, "amd64", [layouts.tar("base"), layouts.tar("top"), layouts.tar("base")])
    arm64 = layouts.add_image(source, "arm64", [layouts.tar("base")])
    layouts.publish(source, layouts.add_index(source, amd64, arm64))
    chosen = ["--platform", "linux/amd64", "--layer", "0-1"]
    ended = done("encrypt", oci(source), oci(target), *recipient, *chosen)
    for other in ("layer 2 (linux/amd64)", "layer 0 (linux/arm64)"):
        text = f"the content of layer 0 (linux/amd64) stays readable: {other}, which was not chosen, is the same blob"
        assert text in ended.errors
    assert ended.errors.count("stays readable") == 2
    assert "stays readable" not in done("encrypt", oci(source), oci(Layout(tmp_path / "all")), *recipient).errors


def test_something_that_only_says_it_is_an_attestation_is_an_image(
    tmp_path: Path, target: Layout, recipient: list[str], key: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    one = layouts.add_image(source, "amd64", [layouts.tar("one")])
    disguised = layouts.add_image(source, "arm64", [layouts.tar("two")])
    disguised["annotations"] = {"vnd.docker.reference.type": "attestation-manifest", layouts.ATTESTED: one["digest"]}
    layouts.publish(source, layouts.add_index(source, one, disguised))
    required = ["check", "--require-encrypted", "all"]
    assert image(*required, oci(source)).status == 4
    done("encrypt", oci(source), oci(target), *recipient)
    done(*required, oci(target), *key)


def test_a_foreign_layer_that_is_elsewhere_stays_and_is_named(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    value = source.read_json(layouts.add_image(source, "amd64", [layouts.tar("own")]))
    elsewhere = {
        "mediaType": FOREIGN,
        "digest": images.digest_of(b"not here"),
        "size": 8,
        "urls": ["https://x.example/"],
    }
    here = {**source.add(images.packed(layouts.tar("f"), images.GZIP).blob, FOREIGN), "urls": ["https://x.example/f"]}
    value["layers"] += [elsewhere, here]
    layouts.publish(source, source.add(layouts.to_json(value), layouts.MANIFEST))
    ended = done("encrypt", oci(source), oci(target), *recipient)
    assert "layer 1 (linux/amd64) stays plain: it is a foreign layer, stored elsewhere (urls)" in ended.errors
    assert [each["mediaType"].endswith(layer.ENCRYPTED) for each in target.layers] == [True, False, True]
    assert target.layers[1] == elsewhere
    assert_refused(source, Layout(tmp_path / "other"), 2, "no layer to encrypt", *recipient, "--layer", "1")


def test_an_image_that_is_its_own_base_is_refused(small: Layout, target: Layout, recipient: list[str]) -> None:
    assert_refused(small, target, 2, "no layer to encrypt", *recipient, "--skip-base", oci(small))


def test_a_provider_that_nothing_configures_is_refused(small: Layout, target: Layout, tmp_path: Path) -> None:
    (tmp_path / "providers.json").write_text('{"key-providers": {}}')
    config = ["--keyprovider-config", str(tmp_path / "providers.json")]
    assert_refused(small, target, 2, "no keyprovider 'absent'", "--recipient", "provider:absent", *config)


def test_a_recipient_to_remove_that_is_nowhere_is_refused(
    small: Layout, target: Layout, recipient: list[str], key: list[str]
) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    ended = image("encrypt", oci(target), oci(target), "--remove-recipient", "pgp", *key)
    assert (ended.status, "no chosen layer has such a recipient" in ended.errors) == (2, True)


def test_decrypt_refuses_encrypted_layers_that_it_does_not_know(
    small: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    value = target.manifest
    value["layers"][1]["mediaType"] = "application/vnd.oci.image.layer.v2.tar+encrypted"
    layouts.publish(target, target.add(layouts.to_json(value), layouts.MANIFEST))
    ended = image("decrypt", oci(target), f"oci:{tmp_path}/plain", *key)
    assert (ended.status, "layer 1 (linux/amd64) cannot be decrypted" in ended.errors) == (4, True)
    assert not (tmp_path / "plain" / "index.json").exists()


def test_configurations_count_against_the_bound(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    source = Layout(tmp_path / "source")
    manifests = []
    for number in range(8):
        value = source.read_json(layouts.add_image(source, "amd64", [layouts.tar("one")]))
        data = layouts.to_json({"os": "linux", "architecture": f"m{number}", "x": " " * (3 << 20)})
        value["config"] = source.add(data, layouts.CONFIG)
        manifests.append(source.add(layouts.to_json(value), layouts.MANIFEST))
    layouts.publish(source, layouts.add_index(source, *manifests))
    assert_refused(source, target, 7, "manifests and configurations of the image have more than", *recipient)


def test_text_from_manifests_is_printed_quoted(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    source = Layout(tmp_path / "source")
    manifest = layouts.add_image(source, "amd64", [layouts.tar("one")])
    manifest["platform"] = {"os": "lin\x1b[31mux\n", "architecture": "a b"}
    layouts.publish(source, layouts.add_index(source, manifest))
    ended = done("encrypt", oci(source), oci(target), *recipient)
    assert "\x1b" not in ended.errors + done("layerinfo", oci(target)).output
    assert r"'lin\x1b[31mux\n/a b'" in ended.errors

"""Encrypted images run by clients that know nothing of encryption: without a payload, the content store tells.

Each case has a fresh containerd, with its own default stream processors and the key in the keys directory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from decoder import limits
from decoder.formats import wire
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.image.tampering import HMAC_MESSAGE, WRAPPED_KEYS, Target, flip, replace_last_layer
from tests.support.node import cri
from tests.support.node.containerd import CONFIGURATION, Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM
from tests.support.registry.dockerregistry import Registry, registry_with

if TYPE_CHECKING:
    from tests.support.keys.keypairs import Encrypt, KeyPair

MANY_LAYERS = 21
NO_KEY = "ctd-decoder: error: no key opens this layer"
NO_PAYLOAD = "ctd-decoder: error: no payload came: descriptor 3 is not open"

# Programs to be found on PATH: the first tells how it was started, the second is no child of containerd, the third
# does not look into the content store.
TELLING = f"""\
#!/bin/sh
if [ -e /proc/$$/fd/3 ]; then echo payload; else echo none; fi >>"$CTD_DECODER_LOG"
exec '{PROGRAM}' "$@"
"""
BETWEEN = f"""\
#!/bin/sh
'{PROGRAM}' "$@"
exit $?
"""
REQUIRING = f"""\
#!/bin/sh
exec '{PROGRAM}' "$@" --require-payload
"""

LOCAL_IMAGE_PULL = f"""\
{CONFIGURATION.replace("version = 2", "version = 3")}
[plugins."io.containerd.cri.v1.images"]
use_local_image_pull = true
"""

every_suite = pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])
every_import = pytest.mark.parametrize(
    ("suite", "mode"),
    [pytest.param(suite, mode, id=f"{suite.name}{mode}") for suite in SUITES for mode in suite.import_modes],
)
every_pull = pytest.mark.parametrize(
    ("suite", "mode"),
    [pytest.param(suite, mode, id=f"{suite.name}{mode}") for suite in SUITES for mode in suite.pull_modes],
)


@pytest.fixture(scope="module")
def encrypted(plain: dict[str, Layout], encrypt: Encrypt) -> Layout:
    return encrypt(plain[images.GZIP], ["rsa2048"])


@pytest.fixture(scope="module")
def key(keys: dict[str, KeyPair]) -> Path:
    return keys["rsa2048"].private


@pytest.fixture(scope="module")
def registry(encrypted: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_with(encrypted, tmp_path_factory.mktemp("registry")) as running:
        yield running


def start(tmp_path: Path, suite: Suite, *keys: Path, ctd_decoder: str = TELLING) -> Containerd:
    return Containerd(tmp_path, *keys, ctd_decoder=ctd_decoder, programs=suite.programs)


def assert_succeeded(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr


def assert_greets(result: subprocess.CompletedProcess[str]) -> None:
    assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")


@every_suite
def test_the_version_is_the_one_named(suite: Suite, tmp_path: Path) -> None:
    with start(tmp_path, suite) as containerd:
        for program in ("containerd", "ctr"):
            version = containerd.execute(program, "--version").stdout.split()[2].lstrip("v")
            assert tuple(map(int, version.split(".")[:2])) >= suite.version
            assert version.startswith(f"{suite.version[0]}.")


@every_import
def test_import(suite: Suite, mode: str, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with start(tmp_path, suite, key) as containerd:
        assert_succeeded(containerd.import_image(encrypted, *mode.split()))
        assert containerd.decoder_runs == ["none"] * len(encrypted.layers)
        assert_greets(containerd.run_stock())
        assert len(containerd.decoder_runs) == len(encrypted.layers)


@every_pull
def test_pull(suite: Suite, mode: str, registry: Registry, key: Path, tmp_path: Path) -> None:
    with start(tmp_path, suite, key) as containerd:
        assert_succeeded(containerd.ctr("images", "pull", *mode.split(), "--plain-http", registry.reference))
        assert containerd.decoder_runs == ["none"] * registry.layers
        assert_greets(containerd.run_stock(registry.reference))
        assert len(containerd.decoder_runs) == registry.layers


@every_suite
def test_cri_pulls(suite: Suite, registry: Registry, key: Path, tmp_path: Path) -> None:
    with start(tmp_path, suite, key) as containerd:
        assert cri.pull_image(containerd.socket, registry.reference).startswith("sha256:")
        how = "payload" if suite.cri_sends_a_payload else "none"
        assert containerd.decoder_runs == [how] * registry.layers
        assert_greets(containerd.run_stock(registry.reference, cri.NAMESPACE))
        assert len(containerd.decoder_runs) == registry.layers


@pytest.mark.parametrize("suite", [suite for suite in SUITES if not suite.cri_sends_a_payload], ids=["forky"])
def test_cri_can_be_told_to_send_a_payload(suite: Suite, registry: Registry, key: Path, tmp_path: Path) -> None:
    with Containerd(
        tmp_path, key, ctd_decoder=TELLING, programs=suite.programs, configuration=LOCAL_IMAGE_PULL
    ) as containerd:
        cri.pull_image(containerd.socket, registry.reference)
        assert containerd.decoder_runs == ["payload"] * registry.layers
        assert_greets(containerd.run_stock(registry.reference, cri.NAMESPACE))


@every_suite
def test_cri_tells_why_it_cannot(suite: Suite, registry: Registry, keys: dict[str, KeyPair], tmp_path: Path) -> None:
    with start(tmp_path, suite, keys["rsa4096"].private) as containerd:
        with pytest.raises(grpc.RpcError) as raised:
            cri.pull_image(containerd.socket, registry.reference)
        assert containerd.decoder_runs
    assert NO_KEY in str(raised.value)
    assert "RSA 4096" in str(raised.value)


@every_suite
def test_a_payload_that_comes_is_used(suite: Suite, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with start(tmp_path, suite) as containerd:
        assert_greets(containerd.run(encrypted, "--key", str(key)))
        assert containerd.decoder_runs == ["payload"] * len(encrypted.layers)


@every_import
def test_nothing_but_the_look_up_makes_it_run(
    suite: Suite, mode: str, encrypted: Layout, key: Path, tmp_path: Path
) -> None:
    with start(tmp_path, suite, key, ctd_decoder=REQUIRING) as containerd:
        result = containerd.import_image(encrypted, *mode.split())
    assert result.returncode == 1
    assert NO_PAYLOAD in result.stderr


@every_suite
def test_a_wrapper_may_stand_between(suite: Suite, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with start(tmp_path, suite, key, ctd_decoder=BETWEEN) as containerd:
        assert_succeeded(containerd.import_image(encrypted))
        assert_greets(containerd.run_stock())


@every_suite
def test_many_small_layers_for_two_clients_at_once(suite: Suite, encrypt: Encrypt, key: Path, tmp_path: Path) -> None:
    names = [f"part/{number:02}" for number in range(MANY_LAYERS - 2)]
    script = images.tar_of({"greet": b"echo /part/*\n"})
    tars = [images.rootfs_layers()[0], *(images.tar_of({name: name.encode()}) for name in names), script]
    layers = [images.packed(tar, images.GZIP) for tar in tars]
    layout = encrypt(images.write_layers(tmp_path / "image", layers), ["rsa2048"])
    assert len(layout.layers) == MANY_LAYERS
    namespaces = ("one", "two")
    with start(tmp_path, suite, key) as containerd, ThreadPoolExecutor() as threads:
        for result in threads.map(lambda name: containerd.import_image(layout, namespace=name), namespaces):
            assert_succeeded(result)
        assert containerd.decoder_runs == ["none"] * MANY_LAYERS * len(namespaces)
        for namespace in namespaces:
            result = containerd.run_stock(namespace=namespace)
            assert (result.stdout, result.stderr) == (" ".join(f"/{name}" for name in names) + "\n", "")


@every_suite
def test_a_second_namespace_decrypts_again(suite: Suite, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with start(tmp_path, suite, key) as containerd:
        for number, namespace in enumerate(("one", "two"), start=1):
            assert_succeeded(containerd.import_image(encrypted, namespace=namespace))
            assert containerd.decoder_runs == ["none"] * len(encrypted.layers) * number
            assert_greets(containerd.run_stock(namespace=namespace))


@pytest.mark.parametrize("mine", ["rsa2048", "p256"])
@every_suite
def test_two_tags_share_blobs(
    suite: Suite, mine: str, plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    recipients = ["rsa2048", "p256"]
    shared = encrypt(plain[images.GZIP], recipients)
    tags = {name: only_recipient(shared, index, tmp_path / name) for index, name in enumerate(recipients)}
    (other,) = tags.keys() - {mine}
    with start(tmp_path, suite, keys[mine].private) as containerd:
        for name in (mine, other):  # so that the manifest that helps is not the newest
            assert_succeeded(containerd.import_image(tags[name], "--no-unpack", repository=name))
            assert containerd.blobs >= {layer["digest"] for layer in shared.layers}
        assert_greets(containerd.run_stock(f"{mine}:{images.NAME}"))
        assert containerd.decoder_runs == ["none"] * len(shared.layers)


def only_recipient(shared: Layout, index: int, directory: Path) -> Layout:
    """Write an image for one recipient of another image, with the same blobs as layers."""
    layout = Layout(directory)
    layers = shared.layers
    for layer in layers:
        layout.add(shared.read(layer), layer["mediaType"])
        wrapped = wire.parse_object(wire.decode_base64(layer["annotations"][WRAPPED_KEYS]))
        wrapped["recipients"] = [wire.list_value(wrapped["recipients"])[index]]
        layer["annotations"][WRAPPED_KEYS] = wire.encode_base64(json.dumps(wrapped).encode())
    layout.write_manifest(shared.read_json(shared.manifest["config"]), layers)
    return layout


@pytest.fixture(scope="module")
def target(plain: dict[str, Layout], encrypt: Encrypt) -> Target:
    image = plain[images.TAR]
    return Target(encrypt(image, ["rsa2048"]), image.read(image.layers[-1]))


def forge(target: Target, copy: Layout) -> None:
    replace_last_layer(copy, flip(target), target.forged)


def lengthen(target: Target, copy: Layout) -> None:
    """Append to a layer, which still begins like the true one; that is in the store as well."""
    junk = bytes(limits.TAIL_BYTES)  # it alone is withheld, so that no tar archive ends early
    ciphertext = target.encrypted.read(target.encrypted.layers[-1])
    assert len(ciphertext) > limits.STORE_WINDOW_BYTES
    replace_last_layer(copy, ciphertext + junk, target.plaintext)


@pytest.mark.parametrize("attack", [forge, lengthen])
@every_import
def test_a_changed_layer_is_refused(
    suite: Suite, mode: str, attack: Callable[[Target, Layout], None], target: Target, key: Path, tmp_path: Path
) -> None:
    copy = Layout(shutil.copytree(target.encrypted.directory, tmp_path / "copy"))
    attack(target, copy)
    with start(tmp_path, suite, key) as containerd:
        result = containerd.import_image(copy, *mode.split())
        assert containerd.decoder_runs == ["none"] * len(copy.layers)
    assert result.returncode == 1
    assert HMAC_MESSAGE in result.stderr

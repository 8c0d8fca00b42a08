"""`ctd-decoder doctor` beside a containerd that runs: what it says is what happens to an encrypted image."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.node.containerd import CONFIGURATION, IMAGE, KEYS_DIRECTORY, Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM, REFERENCE

if TYPE_CHECKING:
    from tests.support.keys.keypairs import Encrypt, KeyPair

Findings = list[dict[str, str]]

KEY = "rsa2048"
every_suite = pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])


@pytest.fixture(scope="module")
def encrypted(plain: dict[str, Layout], encrypt: Encrypt) -> Layout:
    return encrypt(plain[images.GZIP], [KEY])


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> Path:
    return keys[KEY].private


def examine(containerd: Containerd, *arguments: str) -> tuple[int, Findings]:
    containerd.execute("chmod", "700", KEYS_DIRECTORY)
    result = containerd.execute(PROGRAM, "doctor", "--json", *arguments)
    assert result.returncode in (0, 1), result.stderr
    report = json.loads(result.stdout)
    assert report["healthy"] == (result.returncode == 0)
    return result.returncode, report["findings"]


def texts(findings: Findings, *levels: str, check: str = "") -> list[str]:
    chosen = [each for each in findings if each["level"] in levels and check in ("", each["check"])]
    return [f"{each['subject']}: {each['text']}" for each in chosen]


@every_suite
def test_a_default_node_is_healthy(suite: Suite, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key, programs=suite.programs) as containerd:
        status, findings = examine(containerd)
        assert texts(findings, "warning", "error") == []
        assert status == 0
        notes = texts(findings, "note", check="processors")
        assert any("tar+zstd+encrypted are rejected" in text for text in notes)
        assert containerd.import_image(encrypted).returncode == 0


@every_suite
def test_a_node_without_a_configuration_file(suite: Suite, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key, programs=suite.programs, configuration=None) as containerd:
        status, findings = examine(containerd)
        assert texts(findings, "warning", "error") == []
        assert status == 0
        (text,) = texts(findings, "ok", check="configuration")
        assert "containerd uses its defaults" in text
        (text,) = texts(findings, "ok", check="store")
        assert "/run/private/root/" in text
        assert containerd.import_image(encrypted).returncode == 0


def test_no_key_at_all(encrypted: Layout, tmp_path: Path) -> None:
    with Containerd(tmp_path) as containerd:
        status, findings = examine(containerd)
        assert status == 1
        (text,) = texts(findings, "error")
        assert text.startswith("key sources: there is neither a private key nor a keyprovider")
        assert containerd.import_image(encrypted).returncode != 0


def test_a_public_key_alone(encrypted: Layout, keys: dict[str, KeyPair], tmp_path: Path) -> None:
    with Containerd(tmp_path, keys[KEY].public) as containerd:
        status, findings = examine(containerd)
        assert status == 1
        assert any("1 files there are not private keys" in text for text in texts(findings, "error", check="sources"))
        assert any("it holds a public key" in text for text in texts(findings, "warning", check="keys"))
        assert containerd.import_image(encrypted).returncode != 0


def test_the_reference_decoder_comes_first(key: Path, tmp_path: Path) -> None:
    reference = f'#!/bin/sh\nexec {shlex.quote(REFERENCE)} "$@"\n'
    with Containerd(tmp_path, key, ctd_decoder=reference) as containerd:
        status, findings = examine(containerd)
    assert status == 1
    (text,) = texts(findings, "error")
    assert "which is the reference decoder (imgcrypt), not this program" in text


def test_a_relative_entry_of_path(encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key, path_before="bin") as containerd:
        status, findings = examine(containerd)
        assert status == 1
        (text,) = texts(findings, "error")
        assert "the relative entry 'bin' of containerd's PATH, and Go does not start it" in text
        assert containerd.import_image(encrypted).returncode != 0


def test_the_opt_directory_comes_before_path(key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key) as containerd:
        script = f"mkdir -p /run/private/opt/bin && ln -s {shlex.quote(REFERENCE)} /run/private/opt/bin/ctd-decoder"
        assert containerd.execute("sh", "-c", script).returncode == 0
        status, findings = examine(containerd)
    assert status == 1
    (text,) = texts(findings, "error")
    assert "/run/private/opt/bin/ctd-decoder, which is the reference" in text


def test_a_configuration_that_is_absent(key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key) as containerd:
        (tmp_path / "config.toml").unlink()
        status, findings = examine(containerd)
        assert status == 1
        (text,) = texts(findings, "error", check="configuration")
        assert "there is no file" in text
        _, findings = examine(containerd, "--containerd-config", "/nonexistent.toml")
        assert any("'/nonexistent.toml'" in text for text in texts(findings, "error", check="configuration"))


@every_suite
def test_an_image_opens(suite: Suite, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key, programs=suite.programs) as containerd:
        assert containerd.import_image(encrypted, "--no-unpack").returncode == 0
        status, findings = examine(containerd, IMAGE)
    assert texts(findings, "warning", "error") == []
    assert status == 0
    opened = texts(findings, "ok", check="image")
    assert len(opened) == len(encrypted.layers)
    for number, (text, layer) in enumerate(zip(opened, encrypted.layers, strict=True)):
        assert text == f"image {IMAGE}, layer {number}: {layer['digest']} opens, and its HMAC is correct"


def test_an_image_that_does_not_open(encrypted: Layout, key: Path, keys: dict[str, KeyPair], tmp_path: Path) -> None:
    damaged = Layout(shutil.copytree(encrypted.directory, tmp_path / "damaged"))
    old = damaged.layers[-1]
    changed = damaged.add(b"\0" + damaged.read(old)[1:], old["mediaType"])
    damaged.write_manifest(damaged.read_json(damaged.manifest["config"]), [*damaged.layers[:-1], {**old, **changed}])
    with Containerd(tmp_path, key) as containerd:
        assert containerd.import_image(damaged, "--no-unpack").returncode == 0
        status, findings = examine(containerd, IMAGE)
        assert status == 1
        (text,) = texts(findings, "error")
        assert f"{changed['digest']} does not open: the layer is damaged or not authentic: its HMAC differs" in text
        shutil.copy(keys["p256"].private, tmp_path / "keys" / key.name)
        _, findings = examine(containerd, IMAGE)
        assert all("no key opens this layer" in text for text in texts(findings, "error", check="image"))
        _, findings = examine(containerd, "image:absent")
        assert any("image:absent" in text for text in texts(findings, "error", check="image"))


def test_a_plain_image(plain: dict[str, Layout], key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key) as containerd:
        assert containerd.import_image(plain[images.GZIP], "--no-unpack").returncode == 0
        status, findings = examine(containerd, IMAGE)
    assert status == 0
    assert texts(findings, "ok", check="image") == [f"image {IMAGE}: it has no encrypted layer for this machine"]


def test_erofs_wants_verified_layers(key: Path, tmp_path: Path) -> None:
    """The differ is asked for in the configuration of containerd 2.1; erofs-utils need not be there to see that."""
    erofs = CONFIGURATION.replace("version = 2", "version = 3") + (
        '[plugins."io.containerd.service.v1.diff-service"]\ndefault = ["erofs", "walking"]\n'
    )
    verified = '[stream_processors."io.containerd.ocicrypt.decoder.v1.tar.gzip"]\n' + (
        f'accepts = ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]\nreturns = "{images.GZIP}"\n'
        f'path = "ctd-decoder"\nargs = ["--decryption-keys-path", "{KEYS_DIRECTORY}", "--release", "verified"]\n'
    )
    verified += verified.replace("v1.tar.gzip", "v1.tar").replace("tar+gzip", "tar")
    for text, level in ((erofs, "warning"), (erofs + verified, "ok")):
        (tmp_path / level).mkdir()
        (tmp_path / "erofs.toml").write_text(text)
        with Containerd(tmp_path / level, key, programs=SUITES[-1].programs) as containerd:
            _, findings = examine(containerd, "--containerd-config", str(tmp_path / "erofs.toml"))
        (finding,) = [each for each in findings if each["check"] == "differ"]
        assert finding["level"] == level, finding


@pytest.mark.parametrize(("directory", "name"), [("k3s", "k3s"), ("rke2", "RKE2")])
def test_the_containerd_of_a_kubernetes_distribution(directory: str, name: str, key: Path, tmp_path: Path) -> None:
    """Both start a containerd of their own, and write its configuration anew from a template."""
    programs = tmp_path / f"rancher/{directory}/data/current/bin"
    programs.mkdir(parents=True)
    for program in ("containerd", "containerd-shim-runc-v2", "ctr"):
        shutil.copy(f"/usr/bin/{program}", programs)
    (tmp_path / "node").mkdir()
    ours_last = f'#!/bin/sh\nexec {shlex.quote(str(PROGRAM))} "$@"\n'
    with Containerd(tmp_path / "node", key, ctd_decoder=ours_last, programs=programs) as containerd:
        status, findings = examine(containerd)
    assert texts(findings, "error") == []
    assert status == 0
    (text,) = texts(findings, "ok", check="containerd")
    assert f"({programs}/containerd; {name})" in text
    remedies = [each["remedy"] for each in findings if each["check"] == "processors"]
    assert any(f"/var/lib/rancher/{directory}/agent/etc/containerd/config-v3.toml.tmpl" in text for text in remedies)


INSTALLED = """
set -e
mount -t tmpfs tmpfs /var/lib
mount --bind /dev/null /usr/bin/containerd
directory=/var/lib/rancher/$1
mkdir -p $directory/$2 $directory/agent/etc/containerd /etc/containerd/ocicrypt
cp "$4" $directory/$2/containerd
cp "$3" $directory/agent/etc/containerd/config.toml
exec "$5" doctor --json
"""


@pytest.mark.parametrize(
    ("directory", "place", "name", "service"),
    [("k3s", "data/current/bin", "k3s", "k3s"), ("rke2", "bin", "RKE2", "rke2-server")],
)
def test_a_kubernetes_distribution_that_does_not_run(
    directory: str, place: str, name: str, service: str, tmp_path: Path
) -> None:
    """It is installed, as its own paths show, and nobody else's containerd is on PATH."""
    (tmp_path / "config.toml").write_text(CONFIGURATION)
    shutil.copy("/usr/bin/containerd", tmp_path)
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    arguments = ["x", directory, place, str(tmp_path / "config.toml"), str(tmp_path / "containerd"), PROGRAM]
    command = [*apart, "sh", "-c", INSTALLED, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode in (0, 1), result.stderr
    findings = json.loads(result.stdout)["findings"]
    (text,) = texts(findings, "ok", check="containerd")
    assert f"(/var/lib/rancher/{directory}/{place}/containerd; {name})" in text
    (warning,) = [each for each in findings if each["check"] == "containerd" and each["level"] == "warning"]
    assert "it is not running" in warning["text"]
    assert warning["remedy"] == f"start it: systemctl start {service}"
    assert any(f"/var/lib/rancher/{directory}/agent/" in text for text in texts(findings, "ok", check="configuration"))
    (text,) = texts(findings, "note", check="store")
    assert f"/var/lib/rancher/{directory}/agent/containerd/" in text
    assert text.endswith("does not exist yet: containerd creates it")


ROOTLESS = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/containerd
mkdir -p -m 700 /etc/containerd/ocicrypt/keys
cat >/etc/containerd/ocicrypt/keys/key.pem
cat >/etc/containerd/config.toml <<END
version = 2
root = "/run/private/root"
state = "/run/private/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/private/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "/run/private/opt"
END
exec containerd
"""


def test_rootless_containerd_is_found_from_outside(key: Path, tmp_path: Path) -> None:
    """Its paths are those that it sees in its own mount namespace, as containerd-rootless.sh makes them."""
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--pdeathsig", "KILL"]
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    log = tmp_path / "log"
    with (
        key.open("rb") as opened,
        log.open("wb") as output,
        subprocess.Popen(
            [*user, *apart, "sh", "-c", ROOTLESS],
            stdin=opened,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}"},
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while "successfully booted" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            command = [*user, "env", "HOME=/", PROGRAM, "doctor", "--json"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        finally:
            process.kill()
    findings = json.loads(result.stdout)["findings"]
    assert texts(findings, "error") == []
    (text,) = texts(findings, "ok", check="containerd")
    assert "rootless" in text
    assert any("key.pem' (RSA 2048" in text for text in texts(findings, "ok", check="keys"))
    (text,) = texts(findings, "ok", check="store")
    assert "/run/private/root/" in text

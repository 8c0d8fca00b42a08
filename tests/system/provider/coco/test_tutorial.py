"""The commands of docs/confidential-containers.md, run as they are written."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import tomllib
from base64 import b64decode
from pathlib import Path

import yaml

from decoder.provider.services.coco.kbs import source as kbs
from tests.support.coco.register import ADMIN, KID, administered, pkcs8
from tests.support.image.images import Layout
from tests.support.image.layouts import add_image, publish, tar
from tests.support.keys import independent
from tests.support.network.loopback import Authority
from tests.support.program.processes import PROGRAM, ROOT
from tests.support.provider.serving import write_key
from tests.support.registry import registries

DOCUMENT = ROOT / "docs/confidential-containers.md"
_SECONDS = 120


def blocks(kind: str = "sh") -> list[str]:
    """Read the blocks of the walk, the page's first part: `sh`, or `console` with what it prints."""
    walk, found, _ = DOCUMENT.read_text().partition("\n## The key spec\n")
    assert found
    return re.findall(rf"^```{kind}\n(.*?)^```$", walk, re.DOTALL | re.MULTILINE)


def run(block: str, directory: Path) -> str:
    path = f"{Path(PROGRAM).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=_SECONDS,
        check=True,
    ).stdout


def test_walk(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    plain = add_image(layout, "amd64", [tar("base"), tar("confidential")])
    publish(layout, {**plain, "annotations": {"org.opencontainers.image.ref.name": "stable"}})
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"oci:{layout.directory}:stable", f"dir:{tmp_path}/nginx"],
        check=True,
        timeout=_SECONDS,
        capture_output=True,
    )
    printed = [run(block, tmp_path) for block in blocks()]
    packet = json.loads(printed[2])
    assert list(packet) == ["kid", "wrapped_data", "iv", "wrap_type"]
    assert (packet["kid"], packet["wrap_type"]) == ("kbs:///default/image_key/nginx", "A256GCM")
    key = (tmp_path / r"repository/default\x2Fimage_key\x2Fnginx").read_bytes()
    options = independent.gcm_open(key, b64decode(packet["iv"]), b64decode(packet["wrapped_data"]))
    digests = [each["digest"] for each in layout.read_json(plain)["layers"]]
    assert json.loads(options)["digest"] == digests[0]
    decrypted = json.loads((tmp_path / "nginx-decrypted/manifest.json").read_bytes())
    assert [each["digest"] for each in decrypted["layers"]] == digests
    deployment = yaml.safe_load((tmp_path / "nginx-encrypted.yaml").read_text())
    pod = deployment["spec"]["template"]
    value = pod["metadata"]["annotations"]["io.katacontainers.config.hypervisor.cc_init_data"]
    initdata = tomllib.loads(gzip.decompress(b64decode(value, validate=True)).decode())
    assert tomllib.loads(initdata["data"]["cdh.toml"])["kbc"]["url"] == "https://kbs.example:8080"
    assert pod["spec"]["runtimeClassName"] == "kata-remote"
    push(tmp_path)
    provision(tmp_path, key)


def push(directory: Path) -> None:
    """Run the page's command with a registry of ours, and pull what it has pushed."""
    (command,) = [block.removeprefix("$ ") for block in blocks("console") if "skopeo copy" in block]
    (directory / "registry").mkdir()
    with registries.serving(directory / "registry") as registry:
        place = command.split("docker://")[1].split()[0].replace("registry.example", registry.host)
        run(re.sub(r"docker://\S+", f"--insecure-policy --dest-tls-verify=false docker://{place}", command), directory)
        run(f"skopeo --insecure-policy copy --src-tls-verify=false docker://{place} dir:pulled", directory)
    manifests = [
        json.loads((directory / name / "manifest.json").read_bytes()) for name in ("nginx-encrypted", "pulled")
    ]
    assert manifests[0]["layers"] == manifests[1]["layers"]
    assert all(layer["mediaType"].endswith("+encrypted") for layer in manifests[1]["layers"])


def provision(directory: Path, key: bytes) -> None:
    """Run the page's command with a broker of ours, which then gives the key to a guest and has the line in its log."""
    (block,) = [block for block in blocks("console") if "register" in block]
    command, said = block.removeprefix("$ ").rsplit("\n", 2)[:2]
    write_key(directory / "kbs-admin.pem", pkcs8(ADMIN))
    authority = Authority(directory)
    with administered(authority) as broker:
        printed = run(f"{command} --kbs-ca {authority.file}".replace("https://kbs.example:8080", broker.url), directory)
        assert printed.strip() == said.replace("https://kbs.example:8080", broker.url)
        guest = kbs.create(broker.url, {"tee": "sample", "kbs-ca": str(authority.file)})
        assert guest.key(KID, _SECONDS) == key
        assert broker.requests()[-1] == "GET resource/default/image_key/nginx"


def test_what_the_page_shows_of_brokers_is_what_the_program_takes() -> None:
    """These commands need a broker or a cluster; their options at least exist."""
    text = DOCUMENT.read_text()
    for option in set(re.findall(r"--kbs[a-z-]*", text)):
        done = subprocess.run(
            [PROGRAM, "image", "encrypt", "--help"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        assert option in done.stdout


def test_every_json_block_is_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        assert "key-providers" in json.loads(block)
